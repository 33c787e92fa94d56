"""After a restore: how this hospital learns how long its ledger was, and continues it.

    ask       a question with a fresh nonce, kept in never-back-up/: old answers never count
    witness   at another hospital: the newest head of the asker's ledger that it holds
    recover   answers of enough others; what they vouch for is re-imported, or paid for

After `recover` the ledger ends with `recovered` and the node trains again. What could not be had
again is charged with all that is left of the budget, because nobody knows that it cost less.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client import ledger_file, withdrawals
from client.epochs import prepare
from client.ledger_store import LedgerStore
from shared_model import canonical, ledger_cost, signing
from shared_model import ledger_recovery as rules
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.ledger import NOTHING, Booked, Chain, LedgerFault, Recovered, Replaced
from shared_model.ledger_export import MAX_EXPORT_BYTES
from shared_model.ledger_recovery import Answer, Question, Vouched
from shared_model.roster import Roster

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from client.home import NodeHome
    from client.policy import Policy


@dataclass(frozen=True)
class Recovery:
    """What `recover` would do, or has done.

    lines: entries that come back. lost: how many that others saw do not. charge: epsilon for what
    is lost, None if nothing is; without `lost` entries if only this node's own notes know of more.
    longer: the ledger as it is then, before `recovered`. replaces: the lost key (32 raw bytes) that
    signed it, if the present one has to take it over.
    """

    vouched: Vouched
    longer: Chain
    lines: tuple[bytes, ...]
    lost: int
    charge: float | None
    replaces: bytes | None = None


def ask(home: NodeHome, site: str, key: Ed25519PrivateKey) -> bytes:
    """ask.json, with a nonce that no earlier answer knows."""
    length, head = 0, NOTHING
    if home.ledger.exists():
        with LedgerStore.open(home, site, key, perhaps_old=True) as store:
            length, head = store.chain.length, store.chain.head
    question = Question(site=site, nonce=secrets.token_hex(16), length=length, head=head)
    data = rules.seal(question, key)
    prepare(home.never_back_up)
    write_atomic(home.ledger_question, data, mode=0o600)
    return data


def witness(
    home: NodeHome, site: str, key: Ed25519PrivateKey, data: bytes, roster: Roster
) -> tuple[bytes, Answer]:
    """This hospital's answer to another one's question.

    Raises:
        PeerFault: the question is not signed by a hospital of the approved roster.
        LedgerFault: this hospital's own ledger has to be recovered first: it may have forgotten.
    """
    question = rules.open_question(data, roster)
    if question.site == site:
        raise OurMistake("This is this hospital's own question.", do="Send it to the others.")
    with LedgerStore.open(home, site, key) as store:
        held = store.peers().get(question.site)
    answer = Answer(
        witness=site,
        subject=question.site,
        question=question.digest,
        nonce=question.nonce,
        held=held,
    )
    return rules.seal(answer, key), answer


def recover(
    home: NodeHome,
    site: str,
    key: Ed25519PrivateKey,
    *,
    asked: bytes,
    answers: Sequence[bytes],
    entries: Iterable[bytes],
    roster: Roster,
    policy: Policy,
    agree: Callable[[Recovery], None],
    lost_key: bytes | None = None,
    clock: Callable[[], float] | None = None,
) -> Recovery:
    """Continue this hospital's ledger from where the others saw it.

    Args:
        asked: ask.json as it was sent. entries: lines of the coordinator's archive, none if it has
            none. lost_key: this hospital's key before, 32 raw bytes, where no entry names it.
        agree: called with what would be done, before anything is; raises to stop it.

    Raises:
        PeerFault, Refused: an answer does not count, or says that the ledger was forked.
        LedgerFault: the entries are not this hospital's, or do not lead to the vouched head.
    """
    question = _last_question(home, asked, roster)
    if not home.ledger.exists():
        ledger_file.create(home, never_trained=False)
    options = {} if clock is None else {"clock": clock}
    with LedgerStore.open(home, site, key, perhaps_old=True, **options) as store:
        own = store.chain
        lines = _new_lines(own, list(entries))
        longer = own.extended(lines)
        keys = longer.keys if lost_key is None else (*longer.keys, lost_key)
        opened = [rules.open_answer(data, roster, keys) for data in answers]
        found = rules.vouched(question, opened, roster)
        before = longer.identity_key if longer.links else lost_key
        if before == signing.public_bytes(key):
            before = None
        plan = _planned(home, longer, lines, found, policy, before)
        agree(plan)
        withdrawals.mark_unknown(home)  # whatever lost entries was put back, or is a new folder
        evidence = _keep_evidence(home, asked, answers)

        def last(chain: Chain) -> Recovered:
            lost = plan.lost > 0
            made = Recovered(
                site=site,
                sequence=(found.length if lost else chain.length) + 1,
                lost_from=chain.length + 1 if lost else 0,
                lost_to=found.length if lost else 0,
                previous=found.head if lost else chain.head,
                epsilon_charged=plan.charge,
                delta=chain.delta or policy.delta,
                witnesses=found.witnesses[
                    : rules.needed(roster)
                ],  # a line is short; the evidence has all
                evidence_digest=evidence,
                time_s=store.now_s,
            )
            return made if plan.replaces is None else _by_a_new_key(made, plan.replaces, key)

        empty = plan.longer.length == 0 and plan.lost == 0
        store.restore(own, plan.lines, last, begin=policy.delta if empty else None)
    home.ledger_question.unlink(missing_ok=True)
    return plan


def _last_question(home: NodeHome, asked: bytes, roster: Roster) -> Question:
    try:
        kept = home.ledger_question.read_bytes()
    except FileNotFoundError as error:
        raise OurMistake(
            "This node has asked nothing.", do="Run: fedprint-node ledger ask -o ask.json"
        ) from error
    if kept != asked:
        raise Refused(
            "This is not the last question that this node asked.",
            reason="ledger",
            do="Answers count for the last question only: take its file, or ask again.",
        )
    return rules.open_question(kept, roster)


def _by_a_new_key(made: Recovered, lost: bytes, key: Ed25519PrivateKey) -> Replaced:
    return Replaced.model_validate(
        {
            **made.model_dump(),
            "kind": "replaced",
            "previous_key": lost.hex(),
            "identity_key": signing.public_bytes(key).hex(),
        }
    )


def _planned(
    home: NodeHome,
    longer: Chain,
    lines: Sequence[bytes],
    found: Vouched,
    policy: Policy,
    before: bytes | None,
) -> Recovery:
    rules.check_holds(longer, found)
    lost = max(0, found.length - longer.length)
    whole = lost == 0 and ledger_file.Notes.of(home).contained(longer)
    charge = None if whole else _what_is_left(longer, policy)
    replaces = before if longer.links or lost else None  # else a new ledger begins
    return Recovery(found, longer, tuple(lines), lost, charge, replaces)


def _new_lines(own: Chain, entries: Sequence[bytes]) -> list[bytes]:
    """Those that continue this ledger; the ones before must be the same.

    Raises:
        LedgerFault: they are of another ledger, or not whole.
    """
    if not entries:
        return []
    given = Chain(own.site, own.identity_key).extended(entries)
    if own.links:
        given.check_key(own.identity_key)
    shared = min(own.length, given.length)
    if given.head_at(shared) != own.head_at(shared):
        raise LedgerFault(
            "The entries are of another branch of this hospital's ledger than the one here.",
            entry=shared,
            do="Keep ledger.sqlite and move it aside; then run the same command again.",
        )
    return [link.line for link in given.after(own.length)]


def _what_is_left(chain: Chain, policy: Policy) -> float:
    """The rest of the highest limit that is known to have held: lost entries may have had it."""
    limits = (one.limit_lifetime for one in chain.entries(Booked))
    limit = max([policy.epsilon_lifetime, *(one for one in limits if one is not None)])
    spent, _ = ledger_cost.epsilon(chain.spent(), chain.delta or policy.delta)
    return max(0.0, limit - spent)


def _keep_evidence(home: NodeHome, asked: bytes, answers: Sequence[bytes]) -> str:
    """Keep question and answers beside the ledger, which names their digest."""
    data = rules.evidence(asked, answers)
    digest = canonical.digest(data)
    write_atomic(home.recoveries / f"{digest}.json", data, mode=0o600)
    return digest


def entries_of(path: Path) -> list[bytes]:
    """Lines of a file that the coordinator's operator sent.

    Raises:
        Refused: no regular file, or larger than any ledger ("files", "size").
    """
    data = read_regular(path, MAX_EXPORT_BYTES)
    return [line for line in data.splitlines() if line]
