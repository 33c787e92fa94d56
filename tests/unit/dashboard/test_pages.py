"""The pages of the dashboard, without the network."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from dashboard_stand_ins import NOW, Visitor, empty_home, lively_home, words_of
from ledger_stand_ins import opened
from release_stand_ins import key_of

from server.dashboard_reads import Reader
from server.home import CoordinatorHome

PATHS = (
    "/",
    "/live/now",
    "/sites",
    "/live/sites",
    "/runs",
    "/runs/spring",
    "/live/runs/spring",
    "/runs/winter",
    "/runs/autumn",
    "/runs/spring/rounds/4",
    "/runs/spring/rounds/7",
    "/releases",
    "/incidents",
)


def everything_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_page_is_shown_to_who_is_logged_in(visitor: Visitor) -> None:
    """And none of them needs what is not there."""
    visitor.log_in()
    for path in PATHS:
        answer = visitor.get(path)
        assert answer.status == 200, (path, words_of(answer))
    assert not visitor.faults


def test_nobody_else_is_shown_anything_but_health(visitor: Visitor) -> None:
    """Without a session every path answers alike; health says no more than ready and why."""
    for path in (*PATHS, "/nothing", "/runs/none"):
        answer = visitor.get(path)
        assert answer.status == 401, path
        assert "alpha" not in answer.text
    assert visitor.get("/metrics").status == 401
    health = visitor.get("/health")
    assert health.status == 503
    assert health.body == (b'{"live": true, "ready": false, "why": "the registry does not run"}')


def test_looking_changes_nothing_in_the_folder(tmp_path: Path) -> None:
    """Not the files of an open round, not what a crash left behind, no lock."""
    home = lively_home(tmp_path / "coordinator")
    visitor = Visitor(home).log_in()
    before = everything_in(home.root)
    for path in PATHS:
        visitor.get(path)
    assert everything_in(home.root) == before
    assert (home.run_folder("winter") / "submissions" / "0005").is_dir()


def test_no_page_takes_a_form(visitor: Visitor) -> None:
    """An operator acts by commands; the kit's own three forms are all there is."""
    from server.dashboard_pages import pages

    assert {page.method for page in pages(lambda: pytest.fail("not asked"))} == {"GET"}
    visitor.log_in()
    for path in PATHS:
        actions = re.findall(r'<form[^>]*action="([^"]*)"', visitor.get(path).text)
        assert set(actions) <= {"/logout"}, path


def test_what_waits_is_said_with_the_command_to_type(visitor: Visitor) -> None:
    words = words_of(visitor.log_in().get("/"))
    assert "Run autumn is paused: too few hospitals were there" in words
    assert "fedprint-coordinator start --run autumn --resume" in words
    assert "The card of delta waits: a new hospital. Type: fedprint-coordinator waiting" in words
    assert "The registry does not run" in words
    assert "Run winter is unfinished and nothing works on it" in words


def test_a_run_says_who_was_in_which_sum_and_who_was_not(visitor: Visitor) -> None:
    visitor.log_in()
    rows = re.findall(r"<tr>(.*?)</tr>", visitor.get("/runs/spring").text, re.DOTALL)
    cells = {
        found[0]: found[1:]
        for row in rows
        if (found := [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.split(r"</t[hd]>", row)])
        and len(found) > 8
    }
    assert cells["7"][:5] == ["sum of 2", "in", "in", "late", "by 2"]
    assert cells["8"][:5] == ["sum of 2", "refused", "in", "in", "by 2"]
    assert cells["4"][:5] == ["closed", "unused", "unused", "unused", "–"]
    one = words_of(visitor.get("/runs/spring/rounds/7"))
    assert (
        "gamma no did not answer before the deadline; its submission came too late and is void"
        in one
    )
    closed = words_of(visitor.get("/runs/spring/rounds/4"))
    assert "closed fewer hospitals submitted than are needed" in closed


def test_an_open_round_says_who_is_awaited(visitor: Visitor) -> None:
    words = words_of(visitor.log_in().get("/live/runs/winter"))
    assert "hospitals train and submit masked updates. 2 of 3 have answered." in words
    assert "alpha has answered" in words
    assert "gamma is awaited" in words


def test_epsilon_is_never_alone(visitor: Visitor) -> None:
    """With delta, unit and trust model, as the hospital's signed ledger has them."""
    visitor.log_in()
    words = words_of(visitor.get("/sites"))
    whole = (
        r"Epsilon (\S+) at delta 1.0e-05, for one patient at one hospital; trust model local; "
        r"(\d+) booked rounds, the last in spring"
    )
    found = re.findall(whole, words)
    assert [int(count) for _, count in found] == [11, 12, 11]
    assert all(float(epsilon) > 0.5 for epsilon, _ in found)


def test_the_page_says_why_no_losses_are_shown(visitor: Visitor) -> None:
    words = words_of(visitor.log_in().get("/runs/spring"))
    assert "Hospitals' losses are not here: they never leave a hospital." in words
    assert "256 simulated windows of 16 simulated patients, seed 7" in words
    other = words_of(visitor.get("/runs/winter"))
    assert "fedprint-lab public-loss HOME winter" in other


def test_rounds_come_in_pages(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest first; a number that is none is no page."""
    monkeypatch.setattr("server.dashboard_pages.ROUNDS_A_PAGE", 5)
    visitor.log_in()
    first = visitor.get("/runs/spring").text
    assert re.findall(r'href="/runs/spring/rounds/(\d+)"', first) == ["12", "11", "10", "9", "8"]
    assert 'href="/runs/spring?before=8"' in first
    older = visitor.get("/runs/spring", "before=8").text
    assert re.findall(r'href="/runs/spring/rounds/(\d+)"', older) == ["7", "6", "5", "4", "3"]
    odd = visitor.get("/runs/spring", "before=-1").text
    assert re.findall(r'href="/runs/spring/rounds/(\d+)"', odd)[0] == "12"


def test_what_is_not_there_is_refused_in_words(visitor: Visitor) -> None:
    visitor.log_in()
    for path in ("/runs/none", "/runs/spring/rounds/99", "/runs/spring/rounds/x", "/live/runs/q"):
        answer = visitor.get(path)
        assert answer.status == 400, path
    assert visitor.get("/runs/../../etc/passwd").status in (400, 404)
    assert not visitor.faults


def test_a_damaged_run_is_named_and_hides_no_other(tmp_path: Path) -> None:
    home = lively_home(tmp_path / "coordinator")
    (home.run_folder("autumn") / "run.json").write_text('{"format": 2}')
    (home.ledgers / "beta.jsonl").write_bytes(b"{}\n")
    (home.sites / "gamma.json").write_bytes(b"{}")
    (home.run_folder("spring") / "public_loss.json").write_text("[1]")
    (home.run_folder("winter") / "presence.json").write_text("x")
    (home.run_folder("winter") / "open" / "0004" / "request.header").write_bytes(b"x")
    (home.releases / "0001" / "manifest.json").write_bytes(b"{}")
    visitor = Visitor(home).log_in()
    for path in PATHS:
        assert visitor.get(path).status == 200, path
    words = words_of(visitor.get("/"))
    assert "Run autumn cannot be read" in words
    assert "Release 1 is not whole" in words
    assert not visitor.faults


def test_a_ledger_of_another_key_is_nobodys(tmp_path: Path) -> None:
    """Who puts beta's file in alpha's place is told of, and no epsilon is shown."""
    home = lively_home(tmp_path / "coordinator")
    key = key_of("stranger")
    lines = [link.line for link in opened("alpha", key).links]
    (home.ledgers / "alpha.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    overview = Reader(home).overview(NOW.timestamp())
    assert overview.damaged == ("The ledger held of alpha is of another key.",)
    assert [site.privacy is None for site in overview.sites] == [True, False, True, False]


def test_an_empty_coordinator_has_all_pages(tmp_path: Path) -> None:
    visitor = Visitor(empty_home(tmp_path / "coordinator")).log_in()
    for path in ("/", "/sites", "/runs", "/releases", "/incidents"):
        answer = visitor.get(path)
        assert answer.status == 200, words_of(answer)
    assert "The root has signed no roster yet" in words_of(visitor.get("/"))


def test_what_did_not_change_is_not_read_again(
    lively_root: CoordinatorHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records, ledgers, models and releases are verified once, until their file changes."""
    reader = Reader(lively_root)
    first = reader.overview(NOW.timestamp())
    for name in ("RunFolder.record", "RunFolder.weights", "RunFolder.closing"):
        monkeypatch.setattr(f"server.checkpoints.{name}", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("server.dashboard_reads.verify", lambda *_: pytest.fail("verified again"))
    assert reader.overview(NOW.timestamp()) == first


def test_pages_have_no_script_and_no_style_of_their_own(visitor: Visitor) -> None:
    """The policy would stop them; so nothing on a page may count on them."""
    visitor.log_in()
    for path in PATHS:
        answer = visitor.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<script(?! src=\"/static/)", answer.text), path
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style", answer.text), path
        assert "http://" not in answer.text.replace("http://www.w3.org", ""), path
