"""Where the dashboard listens: never plain but on loopback; and the commands around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dashboard_stand_ins import PORT, empty_home, lively_home

from server import cli_run, cli_service, superlink
from server.checkpoints import RunFolder
from server.dashboard_config import listening
from server.home import CoordinatorHome
from shared_model.errors import OurMistake, Refused
from shared_model.locks import locked


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return empty_home(tmp_path / "coordinator")


def bound(home: CoordinatorHome, bind: str) -> None:
    config = superlink.load_config(home).model_copy(update={"dashboard_bind": bind})
    superlink.write_config(home, config)


@pytest.mark.parametrize(
    ("bind", "secure", "first"),
    [
        ("127.0.0.1", False, f"127.0.0.1:{PORT}"),
        ("127.0.0.7", False, f"127.0.0.7:{PORT}"),
        ("::1", False, f"[::1]:{PORT}"),
        ("0.0.0.0", True, f"127.0.0.1:{PORT}"),
        ("192.0.2.7", True, f"127.0.0.1:{PORT}"),
        ("::", True, f"127.0.0.1:{PORT}"),
    ],
)
def test_only_loopback_is_served_without_tls(
    home: CoordinatorHome, bind: str, secure: bool, first: str
) -> None:
    """Elsewhere it is reached by the name in the certificate, which is the address's."""
    bound(home, bind)
    found = listening(home)
    assert (found.host, found.secure, found.hosts[0]) == (bind, secure, first)
    assert found.url == f"{'https' if secure else 'http'}://{first}"
    assert superlink.load_config(home).dashboard_bind == bind


def test_without_a_certificate_it_listens_nowhere_else(home: CoordinatorHome) -> None:
    bound(home, "0.0.0.0")
    home.server_certificate.unlink()
    with pytest.raises(OurMistake, match="with TLS only"):
        listening(home)


def test_a_name_is_no_address_to_listen_at(home: CoordinatorHome) -> None:
    bound(home, "localhost")
    with pytest.raises(OurMistake, match="no IP address"):
        listening(home)


def test_ports_are_three(home: CoordinatorHome) -> None:
    """One above the registry's by default, and nobody else's."""
    config = superlink.CoordinatorConfig(address="127.0.0.1:40009")
    assert (config.registry_at, config.dashboard_at) == (40010, 40011)
    for taken in (40009, 40010):
        with pytest.raises(OurMistake, match="a port of its own"):
            _ = config.model_copy(update={"dashboard_port": taken}).dashboard_at
    top = superlink.CoordinatorConfig(address="127.0.0.1:65534")
    with pytest.raises(OurMistake, match="a port of its own"):
        _ = top.dashboard_at


def test_a_link_is_printed_and_works_once(home: CoordinatorHome, capsys) -> None:
    cli_service.link(home.root)
    url = capsys.readouterr().out.strip()
    assert url.startswith(f"http://127.0.0.1:{PORT}/login?token=")
    from server.dashboard import links

    token = url.rpartition("=")[2]
    assert [links(home).redeem(token) for _ in range(2)] == [True, False]
    assert token not in (home.root / "dashboard-links.json").read_text()


def test_the_resume_command_says_what_happens(tmp_path: Path, capsys) -> None:
    home = lively_home(tmp_path / "coordinator")
    cli_service.resume("autumn", home.root)
    said = capsys.readouterr().out
    assert "Run autumn goes on after round 2." in said
    assert "fedprint-coordinator serve" in said


def test_start_gives_way_to_the_service(tmp_path: Path) -> None:
    """While it is there a run is only begun for it; a second one needs a name."""
    home = lively_home(tmp_path / "coordinator")
    with locked(home.service_lock), pytest.raises(Refused, match="takes up runs itself"):
        cli_run.start(home.root, run="winter")
    (home.run_folder("autumn") / "run.json").unlink()
    with pytest.raises(OurMistake, match="unfinished"):
        cli_run.start(home.root, rounds=2, only_begin=True)
    before = RunFolder(home.run_folder("winter")).record()
    cli_run.start(home.root, run="winter", only_begin=True)
    assert RunFolder(home.run_folder("winter")).record() == before
