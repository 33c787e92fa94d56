"""A restored hospital: what it asks, who may answer, and what it may go on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from books_stand_ins import BUDGET, NOW_S, book, draft, key_of, new_home

from client import ledger_chain, ledger_file, ledger_recovery
from client.home import NodeHome
from client.ledger_recovery import Recovery
from client.ledger_store import LedgerStore
from client.policy import Policy
from shared_model import ledger, roster, signing
from shared_model import ledger_recovery as rules
from shared_model.errors import BudgetExhausted, FedprintError, OurMistake, PeerFault, Refused
from shared_model.ledger import LedgerFault, LedgerHead, Recovered
from shared_model.roster import Roster

SITES = ("alpha", "beta", "gamma", "delta", "epsilon")
LIMIT = 2.5


@dataclass(frozen=True)
class Card:
    site: str
    identity_key: str
    declared_patients: int = 100


ROSTER = roster.draft(
    [Card(site, signing.public_bytes(key_of(site)).hex()) for site in SITES],
    1,
    valid_from="2020-01-01",
    valid_until="2099-01-01",
)  # n = 5, t = 4: min(t, n - 1) = 4 answers


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chain, "_verified", {})


@dataclass
class World:
    """Alpha's node and four others, who see its heads."""

    root: Path
    roster: Roster = ROSTER
    homes: dict[str, NodeHome] = field(default_factory=dict)
    archive: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.homes = {site: new_home(self.root / site) for site in SITES}
        self.policy = Policy.write_default(
            self.alpha.policy, declared_patients=100, epsilon_lifetime=LIMIT, epsilon_per_run=2.0
        )

    @property
    def alpha(self) -> NodeHome:
        return self.homes["alpha"]

    def open(self, site: str = "alpha", **options: Any) -> LedgerStore:
        return LedgerStore.open(
            self.homes[site], site, key_of(site), clock=lambda: NOW_S, **options
        )

    def rounds(
        self, first: int, last: int, seen_by: tuple[str, ...] = SITES[1:], run: str = "run"
    ) -> None:
        """Book, answer, and show the head to these."""
        keys = {site: signing.public_bytes(key_of(site)) for site in SITES}
        for number in range(first, last + 1):
            with self.open() as store:
                book(store, run, number, BUDGET)
                store.answered(run, number, "ab" * 32)
                head, chain = store.signed_head(), store.chain
            links = {"alpha": [link.digest for link in chain.links]}
            for site in seen_by:
                with self.open(site) as peer:
                    peer.see({"alpha": head}, links, keys)
            if seen_by:
                self.archive = [link.line for link in chain.links]

    def back_up(self) -> bytes:
        return self.alpha.ledger.read_bytes()

    def restore(self, copy: bytes, *, whole_machine: bool = False) -> None:
        self.alpha.ledger.write_bytes(copy)
        if whole_machine:
            self.alpha.ledger_note.unlink()
            self.alpha.ledger_marker.unlink()

    def ask(self) -> bytes:
        return ledger_recovery.ask(self.alpha, "alpha", key_of("alpha"))

    def answer(self, site: str, asked: bytes) -> bytes:
        return ledger_recovery.witness(self.homes[site], site, key_of(site), asked, self.roster)[0]

    def recover(
        self,
        asked: bytes,
        answers: list[bytes],
        entries: list[bytes] | None = None,
        *,
        charge: bool = False,
    ) -> Recovery:
        def agree(plan: Recovery) -> None:
            if plan.charge is not None and not charge:
                raise Refused("Not agreed.", reason="not-agreed")

        return ledger_recovery.recover(
            self.alpha,
            "alpha",
            key_of("alpha"),
            asked=asked,
            answers=answers,
            entries=entries or [],
            roster=self.roster,
            policy=self.policy,
            agree=agree,
        )

    def ask_all(self) -> tuple[bytes, list[bytes]]:
        asked = self.ask()
        return asked, [self.answer(site, asked) for site in SITES[1:]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_lost_entries_come_back_up_to_what_the_others_saw(world: World) -> None:
    """Restored to round 1, seen at round 3: the coordinator's lines are this hospital's own."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 3)
    with world.open() as store:
        spent, length = store.epsilon(), store.chain.length
    world.restore(copy)
    with pytest.raises(LedgerFault, match="older copy"):
        world.open()
    asked, answers = world.ask_all()
    done = world.recover(asked, answers, world.archive)
    assert (len(done.lines), done.lost, done.charge) == (4, 0, None)
    assert done.vouched.witnesses == ("beta", "delta", "epsilon", "gamma")
    with world.open() as store:
        last = store.chain.links[-1].entry
        assert isinstance(last, Recovered)
        assert (last.sequence, last.lost_from, last.epsilon_charged) == (length + 1, 0, None)
        assert store.epsilon() == spent
    world.rounds(4, 4, run="next")  # the peers go on with it: the links lead from what they hold


def test_what_cannot_be_had_again_costs_all_that_was_left(world: World) -> None:
    """Only when the operator says so; then the budget is spent, and the peers go on."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 3)
    world.restore(copy)
    asked, answers = world.ask_all()
    with pytest.raises(Refused, match="Not agreed"):
        world.recover(asked, answers)
    with pytest.raises(LedgerFault):
        world.open()
    done = world.recover(asked, answers, charge=True)
    assert (done.lost, len(done.lines)) == (4, 0)
    with world.open() as store:
        last = store.chain.links[-1].entry
        assert isinstance(last, Recovered)
        assert (last.lost_from, last.lost_to, last.sequence) == (4, 7, 8)
        assert store.epsilon() == pytest.approx(LIMIT)
        assert store.chain.spent().losses == 1
        with pytest.raises(BudgetExhausted):
            book(store, "run", 9)
        links = [link.digest for link in store.chain.links[-1:]]
        head = store.signed_head()
    with world.open("beta") as peer:
        peer.see(
            {"alpha": head}, {"alpha": links}, {"alpha": signing.public_bytes(key_of("alpha"))}
        )


def test_a_ledger_that_is_gone_comes_back_whole(world: World) -> None:
    """File, notes and all: a new machine with the old keys."""
    world.rounds(1, 3)
    with world.open() as store:
        before = store.chain
    for path in (world.alpha.ledger, world.alpha.ledger_marker):
        path.unlink()
    shutil.rmtree(world.alpha.never_back_up)
    with pytest.raises(LedgerFault, match="no ledger"):
        world.open()
    asked, answers = world.ask_all()
    world.recover(asked, answers, world.archive)
    with world.open() as store:
        assert store.chain.links[:-1] == before.links


def test_a_ledger_that_is_gone_for_good_begins_with_its_charge(world: World) -> None:
    """The first entry then says how much was lost; delta stays what the policy says."""
    world.rounds(1, 2)
    world.alpha.ledger.unlink()
    asked, answers = world.ask_all()
    done = world.recover(asked, answers, charge=True)
    assert (done.lost, done.charge) == (5, LIMIT)
    with world.open() as store:
        assert store.chain.length == 6
        assert store.epsilon() == LIMIT


def test_entries_that_only_this_node_knows_of_are_charged_as_well(world: World) -> None:
    """Booked, perhaps answered, never agreed upon: nobody else can give them back."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 2, seen_by=())
    world.restore(copy)
    asked, answers = world.ask_all()
    with pytest.raises(Refused, match="Not agreed"):
        world.recover(asked, answers)
    done = world.recover(asked, answers, charge=True)
    assert (done.lost, done.charge is not None) == (0, True)
    with world.open() as store:
        assert store.epsilon() == pytest.approx(LIMIT)
    world.rounds(3, 2)


def test_a_node_that_was_only_moved_goes_on_without_any_loss(world: World) -> None:
    """Newest copy, but nobody here knows: the others do."""
    world.rounds(1, 2)
    world.restore(world.back_up(), whole_machine=True)
    with pytest.raises(LedgerFault, match="nobody here knows"):
        world.open()
    asked, answers = world.ask_all()
    done = world.recover(asked, answers)
    assert (done.lost, done.charge, done.lines) == (0, None, ())
    world.rounds(3, 3)


def test_a_restored_whole_machine_is_found_out_by_the_others(world: World) -> None:
    """Its notes are as old as its ledger, so it notices nothing; the heads that peers hold do."""
    world.rounds(1, 1)
    copies = {
        path: path.read_bytes()
        for path in (world.alpha.ledger, world.alpha.ledger_marker, world.alpha.ledger_note)
    }
    world.rounds(2, 2)
    for path, data in copies.items():
        path.write_bytes(data)
    with pytest.raises(Refused, match="of alpha does not follow"):
        world.rounds(7, 7)


def test_a_ledger_of_which_nobody_has_seen_anything_begins(world: World) -> None:
    """Moved before its first round."""
    world.alpha.ledger_note.unlink()
    asked, answers = world.ask_all()
    world.recover(asked, answers)
    with world.open() as store:
        assert [link.entry.kind for link in store.chain.links] == ["opened", "recovered"]
        book(store)


def test_too_few_answers_are_refused(world: World) -> None:
    """min(t, n - 1) = 4 distinct others; the same one twice counts once."""
    world.rounds(1, 1)
    asked, answers = world.ask_all()
    for some in (answers[:3], [*answers[:3], answers[2]], []):
        with pytest.raises(Refused, match="4 are needed"):
            world.recover(asked, some)


def test_answers_to_an_earlier_question_do_not_count(world: World) -> None:
    """Whoever keeps old answers cannot make a node forget with them."""
    world.rounds(1, 1)
    old, stale = world.ask_all()
    asked, answers = world.ask_all()
    with pytest.raises(Refused, match="not the last question"):
        world.recover(old, stale)
    with pytest.raises(Refused, match="to another question"):
        world.recover(asked, [*answers[:3], stale[3]])
    world.recover(asked, answers)
    with pytest.raises(OurMistake, match="asked nothing"):
        world.recover(asked, answers)


def test_one_honest_witness_is_enough_to_find_a_roll_back(world: World) -> None:
    """The longest head counts, not the one that most hold."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 2, seen_by=("gamma",))
    world.restore(copy, whole_machine=True)
    asked, answers = world.ask_all()
    done = world.recover(asked, answers, charge=True)
    assert (done.vouched.length, done.lost) == (5, 2)


def answer_of(witness: str, asked: bytes, held: LedgerHead | None, **changes: Any) -> bytes:
    question = rules.open_question(asked, ROSTER)
    values = {
        "witness": witness,
        "subject": "alpha",
        "question": question.digest,
        "nonce": question.nonce,
        "held": held,
    }
    return rules.seal(rules.Answer(**{**values, **changes}), key_of(witness))


def test_two_heads_of_one_length_are_a_fork_and_both_witnesses_are_named(world: World) -> None:
    """Both are signed by the hospital itself: no entry can settle it."""
    world.rounds(1, 1)
    asked, answers = world.ask_all()
    fork = ledger.sign_head(key_of("alpha"), "alpha", 3, "cd" * 32)
    with pytest.raises(Refused, match=r"(beta and epsilon|epsilon and beta) hold two different"):
        world.recover(asked, [*answers[:3], answer_of("epsilon", asked, fork)])


def test_a_chain_that_passes_a_witness_by_is_a_fork(world: World) -> None:
    """A shorter head that somebody holds must be in the chain, too."""
    world.rounds(1, 2)
    asked, answers = world.ask_all()
    other = ledger.sign_head(key_of("alpha"), "alpha", 3, "cd" * 32)
    with pytest.raises(Refused, match="beta holds another entry 3"):
        world.recover(asked, [answer_of("beta", asked, other), *answers[1:]])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"subject": "gamma"}, "not signed"),
        ({"nonce": "0" * 32}, "another question"),
        ({"question": "0" * 64}, "another question"),
    ],
)
def test_an_answer_about_something_else_is_refused(
    world: World, changes: dict[str, Any], match: str
) -> None:
    """Another hospital's head, another nonce, another question."""
    world.rounds(1, 1)
    asked, answers = world.ask_all()
    with world.open() as store:
        head = store.signed_head()
    with pytest.raises((Refused, PeerFault), match=match):
        world.recover(asked, [answer_of("beta", asked, head, **changes), *answers[1:]])


def test_a_forged_answer_is_refused_and_its_witness_named(world: World) -> None:
    """Signed by another key, or with a head that this hospital never signed."""
    world.rounds(1, 1)
    asked, answers = world.ask_all()
    document = json.loads(answers[0])
    forged = json.dumps({**document, "witness": "gamma"}).encode()
    held = LedgerHead(length=9, head="cd" * 32, signature="00" * 64)
    with pytest.raises(PeerFault, match="not signed by gamma"):
        world.recover(asked, [forged, *answers[1:]])
    with pytest.raises(PeerFault, match="beta shows a head that alpha has not signed"):
        world.recover(asked, [answer_of("beta", asked, held), *answers[1:]])
    own = answer_of("alpha", asked, None)
    with pytest.raises(Refused, match="cannot answer its own"):
        world.recover(asked, [own, *answers])
    with pytest.raises(PeerFault, match="not a file of"):
        world.recover(asked, [b"[]", *answers])


def test_entries_that_do_not_lead_to_the_vouched_head_are_refused(world: World) -> None:
    """Edited, or of another branch; nothing is written."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 2)
    world.restore(copy)
    asked, answers = world.ask_all()
    edited = [*world.archive[:-1], world.archive[-1].replace(b'"round":2', b'"round":3')]
    with pytest.raises(LedgerFault, match="Entry 5"):
        world.recover(asked, answers, edited)
    with world.open(perhaps_old=True) as store:
        other = store.chain.extended([_line(draft("other", 9, sequence=4))])
    with pytest.raises(FedprintError, match=r"holds another entry"):
        world.recover(
            asked,
            answers,
            [*[link.line for link in other.links], _line(draft("other", 10, sequence=5))],
        )
    assert world.back_up() == copy


def _line(entry: Any) -> bytes:
    return ledger.seal(entry, key_of("alpha"))


def test_a_hospital_that_was_restored_itself_does_not_witness(world: World) -> None:
    """It may have forgotten the head that it is asked for."""
    world.rounds(1, 1)
    asked = world.ask()
    ledger_file.forget_note(world.homes["beta"])
    with pytest.raises(LedgerFault, match="nobody here knows"):
        world.answer("beta", asked)
    with pytest.raises(OurMistake, match="own question"):
        world.answer("alpha", asked)


def test_the_evidence_is_kept_under_the_digest_in_the_entry(world: World) -> None:
    """An auditor sees who said what."""
    world.rounds(1, 1)
    asked, answers = world.ask_all()
    world.recover(asked, answers)
    with world.open() as store:
        last = store.chain.links[-1].entry
    assert isinstance(last, Recovered)
    kept = json.loads((world.alpha.recoveries / f"{last.evidence_digest}.json").read_bytes())
    assert kept == [asked.decode(), *sorted(data.decode() for data in answers)]


def test_a_recovery_that_was_refused_leaves_no_ledger_to_train_with(world: World) -> None:
    """The ledger was gone, notes and all: an empty one in its place counts for nothing."""
    world.rounds(1, 2)
    for path in (world.alpha.ledger, world.alpha.ledger_marker, world.alpha.ledger_note):
        path.unlink()
    asked, answers = world.ask_all()
    with pytest.raises(Refused, match="Not agreed"):
        world.recover(asked, answers)
    with pytest.raises(LedgerFault, match="nobody here knows"):
        world.open()
    world.recover(asked, answers, world.archive)
    world.rounds(3, 3)


def test_a_recovery_killed_before_its_notes_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overstates by one delta more, and never understates."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 2)
    world.restore(copy)
    asked, answers = world.ask_all()

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_file, "write_notes", cut)
        with pytest.raises(KeyboardInterrupt):
            world.recover(asked, answers, charge=True)
    world.recover(asked, answers, charge=True)
    with world.open() as store:
        assert store.epsilon() == pytest.approx(LIMIT)


def test_a_recovery_killed_before_its_commit_changed_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All entries come back or none; the same answers count again."""
    world.rounds(1, 1)
    copy = world.back_up()
    world.rounds(2, 2)
    world.restore(copy)
    asked, answers = world.ask_all()

    def cut(self: LedgerStore) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "_commit", cut)
        with pytest.raises(KeyboardInterrupt):
            world.recover(asked, answers, world.archive)
    with pytest.raises(LedgerFault, match="older copy"):
        world.open()
    world.recover(asked, answers, world.archive)
    world.rounds(3, 3)
