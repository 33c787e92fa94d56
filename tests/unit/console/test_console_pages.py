"""What the console's pages say, and what its buttons do: the same as the commands."""

from __future__ import annotations

import json
import sqlite3
import time

import pytest
from console_stand_ins import SITE, Browser, Hospital, add_data, plan, words
from typer.testing import CliRunner

from client import cli, egress, state, withdrawals
from client.console_log import ConsoleLog
from client.sent import SentLog
from shared_model import canonical, signing

PAGES = ["/", "/live/now", "/runs", "/runs/spring", "/privacy", "/data", "/sent", "/releases",
         "/rosters", "/log", "/sessions"]  # fmt: skip


@pytest.fixture
def browser(hospital: Hospital) -> Browser:
    return Browser(hospital).log_in()


def command(hospital: Hospital, *arguments: str) -> str:
    """What `fedprint-node ...` prints, as one line."""
    done = CliRunner().invoke(cli.app, [*arguments, "--home", str(hospital.home.root)])
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("path", PAGES)
def test_every_page_comes_up_for_a_new_node_and_for_nobody_else(hospital, path):
    """Also before anything was enrolled, sent, released or approved."""
    assert Browser(hospital).get(path).status == 401
    page = Browser(hospital).log_in().get(path)
    assert page.status == 200, page.text
    assert SITE in page.text or path.startswith("/live/")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_comes_up_though_nothing_can_be_read(hospital, browser, path):
    """A console is looked at when something is wrong."""
    home = hospital.home
    for file in (home.ledger, home.ledger_marker, home.policy, home.seen_roster, home.epochs,
                 home.roster, home.pending_roster):  # fmt: skip
        file.write_bytes(b"\xff\x00 no such file")
    home.config.write_text("site = 3")
    home.store.mkdir()
    (home.store / "manifest.json").write_bytes(b"{")
    (home.runs / "pending" / "spring.json").write_bytes(b"{")
    (home.state / "node.json").write_bytes(b"{")
    home.releases.mkdir()
    (home.releases / "current").symlink_to("/etc")
    page = browser.get(path)
    assert page.status < 500
    assert "Traceback" not in page.text


def test_a_run_is_shown_in_the_words_of_the_command(hospital, browser):
    """So that nobody approves here what the terminal would have told otherwise."""
    page = words(browser.get("/runs/spring"))
    for line in command(hospital, "run", "show", "spring").split(". "):
        if not line.startswith("State"):
            assert line.strip() in page, line


def test_a_run_is_approved_as_the_command_does_it(hospital, browser):
    """An entry of the ledger, by the operator; the page says so, and so does the console's log."""
    answer = browser.post("/runs/spring/approve", read="yes", plan=plan().digest)
    assert (answer.status, answer.headers["location"]) == (303, "/runs/spring")
    with hospital.store() as store:
        entry, booked = store.chain.approval("spring")
    assert (entry.by, entry.plan_digest, booked) == ("operator", plan().digest, 0)
    page = words(browser.get("/runs/spring"))
    assert "This hospital takes part in run spring: at most 5 rounds." in page
    hospital.approvals.check(plan())
    line = ConsoleLog(hospital.home).last(1)[0]
    assert (line["what"], line["more"]) == ("approve run", f"done: spring {plan().digest}")
    assert len(line["session"]) == 16


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"plan": plan().digest}, "not-read"), ({"plan": plan().digest, "read": "on"}, "not-read"),
     ({"read": "yes"}, "another-plan"), ({"read": "yes", "plan": "0" * 64}, "another-plan"),
     ({"read": "yes", "plan": plan().digest[:16]}, "another-plan")],
)  # fmt: skip
def test_a_run_is_not_approved_unread(hospital, browser, fields, reason):
    """The box and the digest; the log says that somebody tried."""
    assert browser.post("/runs/spring/approve", **fields).status == 409
    with hospital.store() as store:
        assert store.chain.approval("spring")[0] is None
    assert ConsoleLog(hospital.home).last(1)[0]["more"].startswith(f"refused: {reason}")


def test_a_plan_that_was_swapped_after_it_was_read_is_not_approved(hospital, browser):
    """The coordinator shows one plan, and another one before the click."""
    read = plan().digest
    hospital.ask(plan(rounds=5, bookings=50))
    assert browser.post("/runs/spring/approve", read="yes", plan=read).status == 409
    with hospital.store() as store:
        assert store.chain.approval("spring")[0] is None


def test_a_run_that_the_budget_does_not_hold_for_is_refused_as_by_the_command(hospital, browser):
    """Buttons are no way around the policy."""
    text = hospital.home.policy.read_text()
    for name in ("epsilon_lifetime", "epsilon_per_run"):
        old = next(line for line in text.splitlines() if line.startswith(name))
        text = text.replace(old, f"{name} = 0.3")
    hospital.home.policy.write_text(text)
    answer = browser.post("/runs/spring/approve", read="yes", plan=plan().digest)
    assert answer.status == 409
    assert "One more round would bring run spring" in words(answer)
    assert ConsoleLog(hospital.home).last(1)[0]["more"].startswith("refused: budget")


def test_a_run_is_refused_as_the_command_does_it(hospital, browser):
    """Its next round is refused; a yes afterwards is a yes."""
    assert browser.post("/runs/spring/refuse").status == 303
    assert "takes no part in run spring" in words(browser.get("/runs/spring"))
    assert "refused" in command(hospital, "run", "list")
    browser.post("/runs/spring/approve", read="yes", plan=plan().digest)
    hospital.approvals.check(plan())


@pytest.mark.parametrize("run", ["nothing", "..", "%2e%2e", "a" * 80, "Spring", "spring.json"])
def test_a_run_that_is_not_here_is_no_fault(browser, run):
    """400 or 404, whatever is asked of it."""
    assert browser.get(f"/runs/{run}").status in {400, 404}
    assert browser.post(f"/runs/{run}/approve", read="yes", plan="0" * 64).status in {400, 404}
    assert browser.post(f"/runs/{run}/refuse").status in {400, 404}


def test_pause_and_resume_are_the_command_s_file(hospital, browser):
    """Read by the supervisor; the page says who paused."""
    assert browser.post("/pause").status == 303
    assert state.paused(hospital.home).why.startswith("console, session ")
    assert "Resume training" in browser.get("/").text
    assert browser.post("/resume").status == 303
    assert state.paused(hospital.home) is None
    assert [line["what"] for line in ConsoleLog(hospital.home).last(2)] == ["resume", "pause"]


def test_the_overview_says_what_is_done_now_and_what_waits(hospital, browser):
    """Phase, progress in steps, processes, and each decision with a link."""
    hospital.rosters()
    now_s = time.time()
    with hospital.running(now_s):
        hospital.trains(now_s)
        page = browser.get("/live/now")
    told = words(page)
    assert "Round 3 of run winter: step 4 of 10" in told
    assert "The node runs and takes part in approved runs." in told
    assert "Run spring waits for this hospital's yes or no." in told
    assert "Roster version 2 waits for approval." in told
    assert 'value="4" max="10"' in page.text
    assert "training yes, process 4712" in told


@pytest.mark.parametrize(
    ("phase", "told"),
    [("paused", "Paused by the operator"), ("outside-hours", "Outside its training hours"),
     ("trouble", "in trouble"), ("starting", "is starting")],
)  # fmt: skip
def test_each_phase_is_a_sentence(hospital, browser, phase, told):
    """With the supervisor's why, escaped."""
    with hospital.running(time.time(), phase=phase, why="<because>"):
        page = browser.get("/live/now")
    assert told in words(page)
    assert "&lt;because&gt;" in page.text


def test_what_a_dead_supervisor_wrote_is_not_believed(hospital, browser):
    """Nobody holds its lock; or it has not written for a minute."""
    with hospital.running(time.time()):
        hospital.trains(time.time())
    told = words(browser.get("/live/now"))
    assert "The node does not run." in told
    assert "step 4 of 10" not in told
    with hospital.running(time.time() - 120.0):
        assert "has not said lately what it does" in words(browser.get("/live/now"))


def test_privacy_is_never_shown_without_delta_unit_and_trust_model(hospital, browser):
    """In words, as a plot with a table beside it; the numbers are the command's."""
    page = browser.get("/privacy")
    told, facts = words(page), json.loads(
        CliRunner().invoke(cli.app, ["ledger", "show", "--json", "--home",
                                     str(hospital.home.root)]).stdout)  # fmt: skip
    assert f"Spent for life epsilon {facts['epsilon']:.4g}" in told
    assert f"Left for life epsilon {facts['epsilon_left']:.4g}" in told
    assert f"Unit {facts['unit']} Rounds left like those of winter {facts['rounds_left']}" in told
    assert f"{facts['delta']:g}" in told
    assert "trust model: local" in told.lower()
    assert '<svg class="chart"' in page.text
    assert "<desc" in page.text
    assert "style=" not in page.text
    assert told.count("winter") >= 3


def test_an_entry_that_was_changed_under_the_console_is_told_on_the_page(hospital, browser):
    """What is spent stands; the entry that cannot be shown any more is named, and what to do."""
    with hospital.store():
        pass  # verified by this process
    with sqlite3.connect(hospital.home.ledger) as other:
        other.execute("DROP TRIGGER entries_are_never_changed")
        other.execute("UPDATE entries SET line = x'00' WHERE sequence = 2")
    page = browser.get("/privacy")
    assert page.status == 200
    assert "Entry 2 is not the one that this process has verified" in words(page)


def test_data_are_shown_as_the_command_shows_them(hospital, browser, tmp_path):
    """Counts, never an identifier or a pseudonym."""
    assert "no window store yet" in words(browser.get("/data"))
    add_data(hospital.home, tmp_path / "ward")
    page = browser.get("/data")
    told = words(page)
    assert "Patients 3 With usable windows 3 Recordings 3 Windows 6 Usable windows 6" in told
    assert "ward-7" in told
    assert "flat 0 1" in told
    assert "CANARY" not in page.text


def test_rosters_are_shown_and_not_approved_here(hospital, browser):
    """That takes a telephone and the command."""
    hospital.rosters()
    page = browser.get("/rosters")
    told = words(page)
    assert "fedprint-node roster approve" in told
    assert "west" in told
    assert "Roster version 1: 3 hospitals" in told
    assert page.text.count("<form") == 1  # log out
    for path in ("/rosters", "/rosters/approve", "/roster/approve"):
        assert browser.post(path).status in {404, 405}


def test_what_left_is_shown_with_bytes_digests_and_why(hospital, browser):
    """The newest first, what still waits too; from the log that the node's processes write."""
    assert "nothing was handed over" in words(browser.get("/sent"))
    log = SentLog(hospital.home, now=lambda: 1_790_000_000.0)
    header, _ = egress.refusal(
        signing.load_key_file(hospital.home.identity_key), site=SITE, run="winter", round=2,
        request_digest="ab" * 32, reason="budget",
    )  # fmt: skip
    log.handed_over("1", header, b"x" * 1_000_000)
    log.delivered("1", "delivered")
    log.handed_over("2", b"", b"")
    told = words(browser.get("/sent"))
    for part in ("1.0 MB", canonical.digest(header), canonical.digest(b"x" * 1_000_000),
                 "public by policy", "2026-09-21 14:13 UTC", "waits", "winter 2",
                 "a bare word that there is no answer"):  # fmt: skip
        assert part in told, part


def test_the_log_names_who_did_what(hospital, browser):
    """Logins, refused ones and actions; sessions by digits that let nobody in."""
    browser.post("/pause")
    Browser(hospital, browser.app).post("/login", token="x" * 43)
    told = words(browser.get("/log"))
    assert "login refused" in told
    assert "pause done" in told
    text = (hospital.home.logs / "console-audit.log").read_text()
    assert browser.cookie not in text
    assert browser.csrf not in text
    assert (hospital.home.logs / "console-audit.log").stat().st_mode & 0o777 == 0o600


def test_the_log_is_put_aside_before_it_fills_the_disk(hospital, monkeypatch):
    """One older file is kept."""
    monkeypatch.setattr("client.console_log.SIZE_BYTES", 1000)
    log = ConsoleLog(hospital.home)
    for number in range(50):
        log.write("", "test", str(number))
    assert log.last(1)[0]["more"] == "49"
    sizes = [path.stat().st_size for path in hospital.home.logs.glob("console-audit.log*")]
    assert sum(sizes) < 3000


def test_a_restored_node_is_told_that_nothing_trains(hospital, browser):
    """Until the withdrawals hold: the person at the console would wait for rounds."""
    withdrawals.mark_unknown(hospital.home)
    assert "data withdrawals-hold" in words(browser.get())
    withdrawals.say_they_hold(hospital.home, 0)
    assert "data withdrawals-hold" not in words(browser.get())
