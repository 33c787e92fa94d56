"""fedprint-node ledger, as hospital IT runs it: five nodes, one of them restored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from books_stand_ins import book, key_of
from typer.testing import CliRunner

from client import cli_node, keys, ledger_store
from client.cli import app
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from client.node import check_books
from client.policy import Policy
from client.rosters import RosterBook, today_utc
from shared_model import ledger_export, roster, signing
from shared_model.errors import FedprintError
from shared_model.ledger import LedgerFault

SITES = ("alpha", "beta", "gamma", "delta")
BUDGET = Budget(epsilon_lifetime=8.0, epsilon_per_run=3.0, delta=1e-5)
ROOT = key_of("root")


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_store, "_verified", {})


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NodeHome]:
    """Four hospitals that have approved one roster (t = 3, so three answers)."""
    monkeypatch.chdir(tmp_path)
    found = {site: NodeHome(tmp_path / site) for site in SITES}
    for site, home in found.items():
        cli_node.init(site, 100, home.root)
    signed = roster.sign(
        roster.draft(
            [keys.card(home) for home in found.values()],
            1,
            valid_from="2020-01-01",
            valid_until="2099-01-01",
        ),
        ROOT,
    )
    for home in found.values():
        policy = Policy.from_file(home.policy)
        RosterBook(home).approve(signed.to_bytes(), signing.public_bytes(ROOT), policy, today_utc())
    return found


def run(home: NodeHome, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    if isinstance(result.exception, FedprintError):
        assert result.exception.exit_code == code, result.exception
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def open_store(home: NodeHome) -> LedgerStore:
    site = keys.load_config(home).site
    return LedgerStore.open(home, site, signing.load_key_file(home.identity_key))


def play(homes: dict[str, NodeHome], first: int, last: int) -> list[bytes]:
    """Rounds of alpha that the others see; all lines of its ledger."""
    lines: list[bytes] = []
    for number in range(first, last + 1):
        with open_store(homes["alpha"]) as store:
            book(store, "spring", number, BUDGET)
            store.answered("spring", number, "ab" * 32)
            head, links = store.signed_head(), [link.digest for link in store.chain.links]
            lines = [link.line for link in store.chain.links]
        own = {"alpha": keys.card(homes["alpha"]).identity}
        for site in SITES[1:]:
            with open_store(homes[site]) as peer:
                peer.see({"alpha": head}, {"alpha": links}, own)
    return lines


def test_the_ledger_says_what_was_spent_and_what_is_left_also_in_rounds(homes) -> None:
    """Epsilon with delta, unit and trust model; the same for machines."""
    empty = run(homes["alpha"], "ledger")
    assert "epsilon 0.0 at delta 1e-05" in empty
    play(homes, 1, 2)
    words = run(homes["alpha"], "ledger")
    shown = json.loads(run(homes["alpha"], "ledger", "show", "--json"))
    for part in ("delta 1e-05", "one patient at one hospital", "trust model local", "8 for life"):
        assert part in words
        assert part in shown["in_words"]
    assert f"{shown['rounds_left']} more rounds of the present plan (run spring" in words
    assert shown["epsilon_left"] == pytest.approx(8.0 - shown["epsilon"])
    assert [(row["run"], row["rounds"]) for row in shown["runs"]] == [("spring", 2)]
    assert [row["answered"] for row in shown["rounds"]] == [True, True]
    assert shown["not_current"] is None
    with open_store(homes["alpha"]) as store:
        for number in range(3, 3 + shown["rounds_left"]):
            book(store, "spring", number, BUDGET)
        with pytest.raises(FedprintError, match="allows 3"):
            book(store, "spring", 999, BUDGET)
    assert json.loads(run(homes["alpha"], "ledger", "--json"))["rounds_left"] == 0
    assert json.loads(run(homes["alpha"], "spend", "--json"))["rounds_left"] == 0


@pytest.mark.parametrize(("name", "magic"), [("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")])
def test_the_spend_is_drawn_over_time(homes, tmp_path: Path, name: str, magic: bytes) -> None:
    """With the limits; before the first round, too."""
    for rounds in (0, 2):
        play(homes, 1, rounds)
        run(homes["alpha"], "ledger", "--plot", name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert "FILE.png or FILE.svg" in run(homes["alpha"], "ledger", "--plot", "plot.exe", code=2)


def test_verify_names_the_entry_that_was_edited(homes, monkeypatch) -> None:
    """And says that all is whole otherwise."""
    play(homes, 1, 2)
    assert "The ledger is whole: 5 entries" in run(homes["alpha"], "ledger", "verify")
    data = homes["alpha"].ledger.read_bytes()
    homes["alpha"].ledger.write_bytes(data.replace(b'"round":2', b'"round":3', 1))
    monkeypatch.setattr(ledger_store, "_verified", {})
    said = run(homes["alpha"], "ledger", "verify", code=3)
    assert "Entry " in said
    assert "fedprint-node ledger ask" in said
    with pytest.raises(LedgerFault):
        check_books(homes["alpha"])


def test_verify_finds_a_booking_that_understates_its_epsilon(homes) -> None:
    """Signed and chained: the figure in an entry counts for nothing by itself."""
    home = homes["alpha"]
    play(homes, 1, 1)
    with open_store(home) as store:
        told = store.chain.bookings[0].model_copy(
            update={"sequence": 4, "round": 2, "epsilon_lifetime": 0.1}
        )
        store._append(lambda _: told)
    assert "Entry 4 says another epsilon" in run(home, "ledger", "verify", code=3)


def test_the_export_is_signed_and_holds_every_entry(homes, tmp_path: Path, monkeypatch) -> None:
    """Entries, rosters, heads held of others."""
    play(homes, 1, 1)
    home = homes["beta"]

    class Pinned:
        root = signing.public_bytes(ROOT)

    monkeypatch.setattr("client.ledger_file_export.pinned", lambda _: Pinned)
    with open_store(home) as store:
        book(store, "spring", 1, BUDGET, site="beta")
        lines = [link.line.decode() for link in store.chain.links]
    assert "2 entries" in run(home, "ledger", "export", "-o", "ledger.json")
    sealed = ledger_export.open_export((tmp_path / "ledger.json").read_bytes())
    key, rosters = sealed.verified(signing.public_bytes(ROOT))
    assert key == keys.card(home).identity
    assert len(rosters) == 1
    assert list(sealed.export.lines) == lines
    assert [head.site for head in sealed.export.witnessed] == ["alpha"]


def test_a_restored_hospital_recovers_with_files_carried_by_hand(homes, tmp_path: Path) -> None:
    """The whole of docs/ledger.md: refused, restored, asked, answered, recovered, started."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = tmp_path / "backup"
    shutil.copytree(home.root, copy, ignore=shutil.ignore_patterns("never-back-up"))
    lines = play(homes, 2, 3)
    shutil.rmtree(home.root)
    shutil.copytree(copy, home.root)
    with pytest.raises(LedgerFault, match="nobody here knows"):
        check_books(home)
    assert "does not train until then" in run(home, "restored")
    assert "NOT CURRENT" in run(home, "ledger")
    assert "at least 3 of beta, delta, gamma" in run(home, "ledger", "ask", "-o", "ask.json")
    for site in SITES[1:]:
        said = run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
        assert "saw 7 entries of alpha" in said
    answers = [f"{site}.json" for site in SITES[1:]]
    refused = run(home, "ledger", "recover", "ask.json", *answers, code=3)
    assert "4 are lost" in refused
    assert "counts all that is left of the budget" in refused
    (tmp_path / "entries.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    said = run(home, "ledger", "recover", "ask.json", *answers, "--entries", "entries.jsonl")
    assert "4 entries came back, 0 did not" in said
    check_books(home)
    play(homes, 4, 4)
    assert json.loads(run(home, "ledger", "--json"))["recovered"][0]["witnesses"] == sorted(
        SITES[1:]
    )


def test_a_hospital_without_the_lost_entries_can_only_pay_for_them(homes) -> None:
    """It says so in words before; afterwards nothing is left."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = home.ledger.read_bytes()
    play(homes, 2, 2)
    home.ledger.write_bytes(copy)
    assert "older copy" in run(home, "restored")
    run(home, "ledger", "ask", "-o", "ask.json")
    for site in SITES[1:]:
        run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
    answers = [f"{site}.json" for site in SITES[1:]]
    said = run(home, "ledger", "recover", "ask.json", *answers, "--charge-what-is-left")
    assert "Charged: epsilon" in said
    shown = json.loads(run(home, "ledger", "--json"))
    assert (shown["epsilon"], shown["epsilon_left"], shown["rounds_left"]) == (8.0, 0.0, 0)
    assert shown["delta"] == 2e-5
    assert "Left for life: epsilon 0.0" in said


def test_restored_files_beside_an_untouched_note_need_no_recovery(homes) -> None:
    """never-back-up/ was not restored, and says that the ledger is the newest."""
    home = homes["alpha"]
    play(homes, 1, 1)
    assert "it can start" in run(home, "restored", "--only-this-folder")
    check_books(home)
    assert "does not train" in run(home, "restored")
    with pytest.raises(LedgerFault, match="nobody here knows"):
        check_books(home)


def test_init_makes_the_ledger_once(homes) -> None:
    """A lost one is not made again by running it again."""
    home = homes["alpha"]
    home.ledger.unlink()
    home.ledger_marker.unlink()
    shutil.rmtree(home.never_back_up)
    cli_node.init("alpha", 100, home.root)
    with pytest.raises(LedgerFault, match="has no ledger"):
        check_books(home)
    assert "has 0 rounds" in run(home, "ledger", "import-spend")
    check_books(home)
