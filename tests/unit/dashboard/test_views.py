"""The values behind the pages."""

from __future__ import annotations

import json

import pytest
from dashboard_stand_ins import NOW, SITES, lively_home, rewritten
from hypothesis import given
from hypothesis import strategies as st
from ledger_stand_ins import booking, opened
from release_stand_ins import Story, key_of, write_run

from server import presence
from server.checkpoints import RunFolder
from server.dashboard_calls import last_calls
from server.dashboard_notices import notices
from server.dashboard_open import open_now
from server.dashboard_reads import Reader
from server.dashboard_view import next_command, privacy_of
from server.home import CoordinatorHome
from server.presence import Presence, Watched
from server.round_folder import Chosen, OpeningAsked, StoredReply
from server.run_records import AbsentRecord
from shared_model import ledger, protocol, protocol_open
from shared_model.ledger import Recovered
from shared_model.protocol import Refusal

NAMES = st.sampled_from(SITES)


@given(st.lists(st.tuples(st.frozensets(NAMES), st.floats(0.1, 1e6)), max_size=12))
def test_presence_is_what_was_seen(looks: list[tuple[frozenset[str], float]]) -> None:
    """Seen: the last look that had it; away since: just that, until it is back."""
    known, now, last = Presence(), 0.0, dict[str, float]()
    for online, later in looks:
        now += later
        known = known.after(online, now)
        last |= dict.fromkeys(online, now)
        assert {one.site: one.seen_s for one in known.sites} == last
        for one in known.sites:
            assert one.away_since_s == (None if one.site in online else last[one.site])


def test_the_runs_process_writes_presence_down(tmp_path) -> None:
    """When it changes and every few seconds, also while rounds only wait for answers."""

    class Line:
        def __init__(self):
            self.online, self.pulled = {"alpha": 1, "beta": 2}, 0

        def sites(self):
            return dict(self.online)

        def push(self, messages):
            return ["1"]

        def pull(self, ids):
            self.pulled += 1
            return []

    line, now = Line(), [100.0]
    watched = Watched(line, tmp_path, lambda: now[0], lambda: 1e9 + now[0])
    watched.pull(["1"])
    first = presence.read(tmp_path)
    assert first is not None
    assert [one.site for one in first.sites] == ["alpha", "beta"]
    line.online = {"alpha": 1}
    now[0] += 1.0
    watched.pull(["1"])
    assert presence.read(tmp_path) == first  # not every second
    now[0] += 5.0
    watched.pull(["1"])
    found = presence.read(tmp_path)
    assert found is not None
    assert [one.away_since_s for one in found.sites] == [None, 1e9 + 100.0]
    line.online = {"alpha": 1, "beta": 2}
    now[0] += 0.5
    assert watched.sites() == line.online  # a change is written at once
    assert all(one.away_since_s is None for one in presence.read(tmp_path).sites)
    assert (line.pulled, watched.push([])) == (3, ["1"])
    later = Watched(line, tmp_path, lambda: now[0], lambda: 2e9)
    line.online = {}
    later.sites()
    assert [one.seen_s for one in presence.read(tmp_path).sites] == [1e9 + 106.5] * 2


def test_what_was_charged_for_lost_entries_counts(tmp_path) -> None:
    """Nobody is shown a smaller epsilon than the ledger says."""
    folder = write_run(CoordinatorHome(tmp_path / "c"), Story(rounds=1))
    record = folder.record()
    request = protocol_open.open_train_request(
        record.rounds[0].request_bytes, bytes.fromhex(record.run_key)
    )
    key = key_of("alpha")
    chain = opened("alpha", key)
    assert privacy_of(chain) is None
    booked = booking(
        chain,
        request,
        request_digest="ab" * 32,
        transcript="cd" * 32,
        epsilon=1.25,
        noise="system",
        declared_patients=1000,
    ).model_copy(update={"limit_lifetime": 8.0})
    chain = chain.extended([ledger.seal(booked, key)])
    before = privacy_of(chain)
    assert before is not None
    assert (before.epsilon, before.rounds, before.trust_model) == (1.25, 1, "local")
    lost = Recovered(
        site="alpha",
        sequence=chain.length + 3,
        lost_from=chain.length + 1,
        lost_to=chain.length + 2,
        previous="ef" * 32,
        epsilon_charged=8.0 - 1.25,
        delta=booked.delta,
        witnesses=("beta",),
        evidence_digest="12" * 32,
        time_s=1,
    )
    chain = chain.extended([ledger.seal(lost, key)])
    after = privacy_of(chain)
    assert after is not None
    assert after.epsilon == pytest.approx(8.0)
    assert after.delta == pytest.approx(2 * booked.delta)


def test_the_stage_of_an_open_round_follows_its_files(tmp_path) -> None:
    """Submitted, agreed, opened: what counts is what is stored."""
    home = lively_home(tmp_path / "coordinator")
    folder = RunFolder(home.run_folder("winter"))
    record, files = folder.record(), folder.round(4)
    found = open_now(folder, record)
    assert found is not None
    assert (found.stage, found.answered, found.awaited) == ("submit", ("alpha", "beta"), ("gamma",))
    said = Refusal(
        run="winter", round=4, site="gamma", request_digest="ab" * 32, reason="run-approval"
    )
    files.store_refusal("gamma", protocol.seal(said, key_of("gamma")))
    found = open_now(folder, record)
    assert found is not None
    assert found.awaited == ()
    assert found.refused[0].words == (
        "refused (run-approval): it waits for its operator's yes to this run and is asked again"
    )
    files.store_chosen(Chosen(("alpha", "beta"), ("a", "b"), {}))
    files.store_agreement("beta", b"x")
    found = open_now(folder, record)
    assert found is not None
    assert (found.stage, found.answered, found.awaited) == ("agree", ("beta",), ("alpha",))
    files.store_opening(1, OpeningAsked(("alpha", "beta"), ()))
    files.store_shares(1, StoredReply("alpha", b"h", b"b"))
    found = open_now(folder, record)
    assert found is not None
    assert (found.stage, found.answered, found.awaited) == ("open", ("alpha",), ("beta",))


def test_the_next_command_follows_from_the_state(tmp_path) -> None:
    home = lively_home(tmp_path / "coordinator")
    runs = {run.name: run for run in Reader(home).overview(NOW.timestamp()).runs}
    served = {name: next_command(run, running=False, service=True) for name, run in runs.items()}
    assert served == {
        "autumn": "fedprint-coordinator resume autumn",
        "winter": "fedprint-coordinator serve",
        "spring": "",
    }
    alone = next_command(runs["autumn"], running=False, service=False)
    assert alone == "fedprint-coordinator start --run autumn --resume"
    assert next_command(runs["winter"], running=True, service=True) == ""


def test_presence_is_not_claimed_when_nothing_works_on_a_run(tmp_path) -> None:
    """A file that is old, or whose writer is gone, says nothing about now."""
    home = lively_home(tmp_path / "coordinator")
    overview = Reader(home).overview(NOW.timestamp())
    assert {site.online for site in overview.sites} == {None}
    assert [site.seen_s is not None for site in overview.sites] == [True, True, False, True]


def test_certificates_that_end_are_told_of(tmp_path) -> None:
    """alpha's in 20 days; later it has ended, and the hospital is invited anew."""
    home = lively_home(tmp_path / "coordinator")
    soon = notices(Reader(home).overview(NOW.timestamp()))
    assert any("certificate of alpha ends in 20 days" in one.words for one in soon)
    assert not any("certificate of beta" in one.words for one in soon)
    later = notices(Reader(home).overview(NOW.timestamp() + 30 * 86400))
    ended = [one for one in later if "certificate of alpha has ended" in one.words]
    assert [one.do for one in ended] == ["fedprint-coordinator invite alpha -o token.json"]
    assert later[0].kind == "bad"


def test_a_refusal_for_budget_is_told(tmp_path) -> None:
    home = lively_home(tmp_path / "coordinator")
    folder = RunFolder(home.run_folder("spring"))
    rounds = list(folder.record().rounds)
    away = AbsentRecord(site="gamma", ending="refused", reason="budget")
    rounds[-1] = rounds[-1].model_copy(
        update={
            "absent": (away,),
            "survivors": ("alpha", "beta"),
            "contributors": rounds[-1].contributors[:2],
        }
    )
    rewritten(folder, rounds=tuple(rounds))
    found = notices(Reader(home).overview(NOW.timestamp()))
    assert any("from round 12 on gamma has no privacy budget left" in one.words for one in found)


def test_the_registrys_log_is_read_as_it_is(tmp_path) -> None:
    """Lines of others, of nobody and of garbage count for nothing."""
    good = {"time": "2026-11-28T10:00:00.000+00:00", "method": "Roster", "site": "alpha"}
    lines: list[object] = [
        {**good, "outcome": "ok"},
        {**good, "outcome": "rate", "method": "Mail"},
        {**good, "outcome": "ok", "site": "<script>"},
        {**good, "outcome": "ok", "site": "unknown"},
        {**good, "outcome": "ok", "time": "yesterday"},
        {**good, "outcome": 3},
        [1],
        None,
    ]
    text = "\n".join([json.dumps(line) for line in lines] + ["[" * 100_000, "\x00"])
    (tmp_path / "registry.log").write_text(text)
    found = last_calls(tmp_path)
    assert list(found.last) == ["alpha"]
    assert found.last["alpha"].outcome == "rate"
    assert found.refused == (("alpha", "rate", 1),)
    assert not last_calls(tmp_path / "none").last


def test_who_is_there_is_a_display_and_a_full_disk_ends_no_round(tmp_path, monkeypatch) -> None:
    """It is noted by the process in which the round goes on."""
    from types import SimpleNamespace

    from server import presence

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(presence, "write_atomic", full)
    inner = SimpleNamespace(sites=lambda: {"alpha": 1}, pull=lambda ids: [])
    watched = presence.Watched(inner, tmp_path, lambda: 1.0, lambda: 1.0)
    assert watched.sites() == {"alpha": 1}
    assert watched.pull([]) == []
