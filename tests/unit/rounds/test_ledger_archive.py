"""The coordinator's archive of ledgers: what continues it, what does not, and what peers hold."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass

import pytest
from ledger_stand_ins import answering, booking, head_of, note_of, opened
from node_stand_ins import SITES, Consortium, key_of
from typer.testing import CliRunner

from server.cli import app
from server.home import CoordinatorHome
from server.ledgers import LedgerArchive
from shared_model import canonical, ledger, ledger_export, protocol, signing
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import Recovered
from shared_model.ledger_note import LedgerMismatch, check_note
from shared_model.protocol import KnownHead, LedgerNote
from shared_model.secure_sum.transcript import of_request

ALPHA = signing.public_bytes(key_of("alpha"))


@pytest.fixture
def archive(tmp_path):
    return LedgerArchive(CoordinatorHome(tmp_path / "home").ledgers)


@pytest.fixture
def consortium(tmp_path):
    return Consortium.of(tmp_path)


def submitted(consortium, number=1, heads=(), site="alpha"):
    request, body = consortium.request(round=number, ledger_heads=tuple(heads))
    return request, consortium.told(site, request, body)


def test_rounds_continue_the_archive_over_restarts(archive, consortium):
    """Each request shows the last head; each reply adds what came since."""
    for number in (1, 2, 3):
        known = archive.known("alpha", ALPHA)
        request, reply = submitted(consortium, number, [] if known is None else [known])
        archive.check(reply, request, ALPHA)
        archive.accept(reply, request, ALPHA)
        archive.accept(reply, request, ALPHA)
        archive = LedgerArchive(archive.path)
        assert archive.known("alpha", ALPHA).plain == reply.ledger.plain
    chain = consortium.nodes["alpha"].books.chain
    assert archive.chain("alpha", ALPHA) == chain
    assert archive.sites == ("alpha",)


def test_a_line_that_a_crash_cut_off_counts_for_nothing(archive, consortium):
    """And the next reply writes it whole; a head that is not in the lines is not shown."""
    request, reply = submitted(consortium)
    archive.accept(reply, request, ALPHA)
    known = archive.known("alpha", ALPHA)
    second, later = submitted(consortium, 2, [known])
    path = archive.path / "alpha.jsonl"
    path.write_bytes(path.read_bytes() + later.ledger.entries[0].encode()[:100])
    again = LedgerArchive(archive.path)
    assert again.known("alpha", ALPHA) == known
    again.accept(later, second, ALPHA)
    assert LedgerArchive(archive.path).chain("alpha", ALPHA).length == 5
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(OurMistake, match="not in the entries"):
        LedgerArchive(archive.path).known("alpha", ALPHA)
    path.write_bytes(b"{}\n")
    with pytest.raises(OurMistake, match="damaged"):
        LedgerArchive(archive.path).chain("alpha", ALPHA)


def no_plan(chain, key, **changes):
    """A note whose booking is none of a private round; signed, chained, and no line that `seal`
    would make."""
    changes = {"mode": "distributed", "dimension": 64, "steps": 1, **changes}
    plain = chain.links[-1].entry.model_dump(mode="json") | changes
    data = canonical.encode(plain)
    signature = signing.sign(key, ledger.TAG, data).hex()
    lines = (chain.links[0].line, canonical.encode({**plain, "signature": signature}))
    framed = (
        len(part).to_bytes(8, "big") + part for part in (b"fedprint-1", b"ledger-entry", data)
    )
    head = ledger.next_head(chain.links[0].head, canonical.digest(b"".join(framed)))
    return LedgerNote(
        **ledger.sign_head(key, chain.site, 2, head).model_dump(),
        entries=tuple(line.decode() for line in lines),
    )


def lies(consortium, request, reply):
    """Replies of alpha whose ledger is not in order."""
    key, note = key_of("alpha"), reply.ledger
    transcript = of_request(request, consortium.roster.weights)
    start = opened("alpha", key)

    def book(chain, **changes):
        values = {
            "request_digest": reply.request_digest,
            "transcript": transcript.digest.hex(),
            "epsilon": reply.privacy.epsilon,
            "noise": reply.noise,
            "declared_patients": reply.declared_patients,
        }
        entry = booking(chain, request, **{**values, **changes})
        return chain.extended([ledger.seal(entry, key)])

    def done(chain, digest=reply.body_digest):
        answer = answering(chain, request.run, request.round, digest)
        return note_of(chain.extended([ledger.seal(answer, key)]), key)

    other = opened("alpha", key, ledger_id="cd" * 16)
    forged = head_of(consortium.nodes["alpha"].books.chain, key_of("impostor"))
    yield "nothing is booked", note_of(start, key)
    yield "nothing is answered", note_of(book(start), key)
    yield "another body is answered", done(book(start), "ab" * 32)
    yield "less noise than was asked", done(book(start, noise_multiplier=0.5))
    yield "fewer steps", done(book(start, steps=1))
    yield "another request", done(book(start, request_digest="ab" * 32))
    yield "another transcript", done(book(start, transcript="ab" * 32))
    yield "another epsilon than it states", done(book(start, epsilon_lifetime=0.25))
    yield "a forged head", LedgerNote(**forged.model_dump(), entries=note.entries)
    yield "an entry is hidden", note.model_copy(update={"entries": note.entries[1:]})
    yield "no entries", note.model_copy(update={"entries": ()})
    swapped = (note.entries[0], note.entries[2], note.entries[1])
    yield "entries are swapped", note.model_copy(update={"entries": swapped})
    edited = note.entries[1].replace('"steps":4', '"steps":1')
    assert edited != note.entries[1]
    yield "an edited entry", note.model_copy(update={"entries": (note.entries[0], edited)})
    yield "many steps of mode distributed", no_plan(book(start), key, steps=4)
    yield "a step of no coordinates", no_plan(book(start), key, dimension=0)
    yield "garbage", note.model_copy(update={"entries": ("{}", *note.entries[1:])})
    yield (
        "another length",
        LedgerNote(
            **ledger.sign_head(key, "alpha", note.length + 1, note.head).model_dump(),
            entries=note.entries,
        ),
    )
    honest = done(book(other))
    yield None, honest  # in order by itself: it is another ledger of the same site


def test_a_reply_that_is_not_booked_as_it_says_names_its_site(archive, consortium):
    """Every way in which a ledger can be out of order, one by one; the truth is taken."""
    request, reply = submitted(consortium)
    for what, note in lies(consortium, request, reply):
        if what is None:
            continue
        with pytest.raises(LedgerMismatch) as caught:
            archive.check(reply.model_copy(update={"ledger": note}), request, ALPHA)
        assert caught.value.site == "alpha", what
    archive.check(reply, request, ALPHA)


def test_a_note_is_no_proof_if_a_restore_in_it_does_not_follow(consortium):
    """Whoever holds a release reads the note alone: it refuses what the whole chain refuses."""
    request, reply = submitted(consortium)
    key, chain = key_of("alpha"), consortium.nodes["alpha"].books.chain
    for previous, follows in ((chain.head, True), ("ab" * 32, False)):
        entry = Recovered(
            site="alpha",
            sequence=4,
            lost_from=0,
            lost_to=0,
            previous=previous,
            epsilon_charged=None,
            delta=1e-5,
            witnesses=("beta",),
            evidence_digest="ab" * 32,
            time_s=0,
        )
        line = ledger.seal(entry, key)
        head = ledger.next_head(chain.head, ledger.entry_digest(entry))
        note = LedgerNote(
            **ledger.sign_head(key, "alpha", 4, head).model_dump(),
            entries=(*reply.ledger.entries, line.decode()),
        )
        said = reply.model_copy(update={"ledger": note})
        if follows:
            check_note(said, request, ALPHA)
            continue
        with pytest.raises(LedgerMismatch, match="do not"):
            check_note(said, request, ALPHA)


def test_another_ledger_of_a_site_that_is_known_is_refused(archive, consortium):
    """A fork, begun anew with the same key, whether or not it says that it follows the known."""
    request, reply = submitted(consortium)
    fork = next(note for what, note in lies(consortium, request, reply) if what is None)
    archive.accept(reply, request, ALPHA)
    with pytest.raises(LedgerMismatch, match="not the ledger that was seen before"):
        archive.check(reply.model_copy(update={"ledger": fork}), request, ALPHA)
    second, later = submitted(consortium, 2, [archive.known("alpha", ALPHA)])
    shown = second.model_copy(
        update={"ledger_heads": (KnownHead(site="alpha", **fork.plain.model_dump()),)}
    )
    with pytest.raises(LedgerMismatch):
        archive.check(later, shown, ALPHA)
    archive.check(later, second, ALPHA)


def test_a_peer_is_sent_what_it_misses_and_all_after_it_has_doubted(archive, consortium):
    """What is held stays over a restart; less is always safe."""
    keys = {site: signing.public_bytes(key_of(site)) for site in SITES}
    heads = {}
    for site in SITES:
        request, reply = submitted(consortium, site=site)
        archive.accept(reply, request, keys[site])
        heads[site] = reply.ledger.plain
    first = archive.links_for("beta", heads, keys)
    assert {site: len(found) for site, found in first.items()} == {"alpha": 3, "gamma": 3}
    assert ledger.follows(ledger.NOTHING, first["alpha"]) == heads["alpha"].head
    archive.witnessed("beta", heads)
    archive.save()
    known = archive.known("alpha", ALPHA)
    second, later = submitted(consortium, 2, [known])
    archive.accept(later, second, ALPHA)
    heads["alpha"] = later.ledger.plain
    again = LedgerArchive(archive.path)
    links = again.links_for("beta", heads, keys)
    assert ledger.follows(known.head, links["alpha"]) == later.ledger.head
    assert links["gamma"] == ()
    again.doubts("beta")
    assert len(LedgerArchive(archive.path).links_for("beta", heads, keys)["alpha"]) == 5


def test_entries_that_are_lost_between_peers_and_a_reply_are_not_taken(archive, consortium):
    """No links lead from what beta holds to such a head: it would refuse trip 2 of every round."""
    request, reply = submitted(consortium)
    archive.accept(reply, request, ALPHA)
    known = archive.known("alpha", ALPHA)
    books = consortium.nodes["alpha"].books
    books.append(
        ledger.Recovered(
            site="alpha",
            sequence=7,
            lost_from=4,
            lost_to=6,
            previous="ab" * 32,
            epsilon_charged=1.0,
            delta=1e-5,
            witnesses=("beta",),
            evidence_digest="cd" * 32,
            time_s=0,
        )
    )
    second, later = submitted(consortium, 2, [known])
    archive.check(later, second, ALPHA)  # nobody has seen this ledger
    archive.witnessed("beta", {"alpha": known.plain})
    with pytest.raises(LedgerMismatch, match="beta holds an earlier head") as caught:
        archive.check(later, second, ALPHA)
    assert caught.value.site == "alpha"
    archive.witnessed("beta", {"alpha": later.ledger.plain})
    archive.check(later, second, ALPHA)


def test_the_archive_is_shown_and_its_entries_are_written_for_recovery(archive, consortium):
    """Lines that the hospital itself can verify."""
    home = archive.path.parent
    run = CliRunner().invoke
    assert "No hospital" in run(app, ["ledger", "show", "--home", str(home)]).output
    request, reply = submitted(consortium)
    archive.accept(reply, request, ALPHA)
    shown = run(app, ["ledger", "show", "--json", "--home", str(home)])
    rows = json.loads(shown.output)
    assert [(row["site"], row["entries"], row["last round"]) for row in rows] == [("alpha", 3, 1)]
    assert rows[0]["delta"] == 1e-5
    out = home / "alpha.jsonl"
    arguments = ["ledger", "entries", "alpha", "-o", str(out), "--home", str(home)]
    assert run(app, arguments).exit_code == 0
    lines = out.read_bytes().splitlines()
    found = ledger.Chain.verified(lines, ALPHA, site="alpha")
    assert found == consortium.nodes["alpha"].books.chain
    wrong = run(app, ["ledger", "entries", "beta", "-o", str(out), "--home", str(home)])
    assert isinstance(wrong.exception, OurMistake)
    assert protocol.header_digest(b"") not in out.read_text()


def test_an_exported_ledger_fills_an_archive_that_lacks_too_much(archive, consortium, monkeypatch):
    """Up to the head in the file, which the hospital has signed; not under a running one."""
    home = archive.path.parent
    consortium.submit()
    for number in range(40):
        consortium.nodes["alpha"].books.incident("later", number + 1, "conflict")
    chain = consortium.nodes["alpha"].books.chain
    signed = head_of(chain, key_of("alpha"))

    def exported(lines, head=signed):
        made = ledger_export.build(
            site="alpha", created="2026-11-28", software="test", code_digest="ab" * 32,
            lines=lines, rosters=[consortium.signed.to_bytes()], witnessed={},
            countersigned=[], releases=[], head=head,
        )  # fmt: skip
        path = home / "export.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ledger_export.seal(made, key_of("alpha")))
        return ["ledger", "import", str(path), "--home", str(home)]

    @dataclass(frozen=True)
    class Card:
        site: str = "alpha"
        identity_key: str = ALPHA.hex()

    monkeypatch.setattr("server.sites.roster", lambda place: (Card(),))
    run = CliRunner().invoke
    lines = [link.line for link in chain.links]
    forged = head_of(chain, key_of("beta"))
    for head in (None, forged):
        assert isinstance(run(app, exported(lines, head)).exception, Refused)
    assert LedgerArchive(archive.path).known("alpha", ALPHA) is None
    with CoordinatorHome(home).lock.open("w") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        assert run(app, exported(lines)).exception.reason == "busy"
    assert isinstance(run(app, exported(lines[:2])).exception, Refused)
    taken = run(app, exported(lines))
    assert taken.exit_code == 0, taken.output
    known = LedgerArchive(archive.path).known("alpha", ALPHA)
    assert known.plain == signed
    assert LedgerArchive(archive.path).chain("alpha", ALPHA) == chain
    fork = opened("alpha", key_of("alpha"), ledger_id="cd" * 16)
    assert isinstance(run(app, exported([fork.links[0].line])).exception, Refused)


def test_a_reply_after_a_rotation_hands_the_archived_ledger_over(archive, consortium):
    """The request still shows a head by the old key; the reply's entries lead to the new one."""
    heir = key_of("heir")
    public = signing.public_bytes(heir)
    request, reply = submitted(consortium)
    archive.accept(reply, request, ALPHA)
    archive = LedgerArchive(archive.path)
    known = archive.known("alpha", public)
    assert known.plain == reply.ledger.plain
    second, told = submitted(consortium, 2, [known])
    chain = archive.chain("alpha", public)
    entry = ledger.HandedOver(
        site="alpha",
        sequence=chain.length + 1,
        previous_key=ALPHA.hex(),
        identity_key=public.hex(),
        time_s=0,
    )
    made = chain.extended([ledger.seal(entry, key_of("alpha"))])
    booked = booking(
        made,
        second,
        request_digest=told.request_digest,
        transcript=told.transcript,
        epsilon=told.privacy.epsilon,
        noise=told.noise,
        declared_patients=told.declared_patients,
    )
    made = made.extended([ledger.seal(booked, heir)])
    made = made.extended(
        [ledger.seal(answering(made, second.run, second.round, told.body_digest), heir)]
    )
    after = told.model_copy(update={"ledger": note_of(made, heir, since=known.length)})
    with pytest.raises(LedgerMismatch):
        archive.check(after, second, ALPHA)
    archive.check(after, second, public)
    archive.accept(after, second, public)
    again = LedgerArchive(archive.path)
    assert again.chain("alpha", public).keys == (ALPHA, public)
    assert again.known("alpha", public).plain == after.ledger.plain
    usurped = note_of(made, key_of("thief"), since=known.length)
    with pytest.raises(LedgerMismatch):
        archive.check(told.model_copy(update={"ledger": usurped}), second, public)


def test_what_is_held_does_not_depend_on_the_key_that_asks(archive, consortium):
    """A late reply of a round before a rotation would cut off what came since."""
    heir = key_of("heir")
    public = signing.public_bytes(heir)
    request, reply = submitted(consortium)
    archive.accept(reply, request, ALPHA)
    before = archive.chain("alpha", ALPHA)
    entry = ledger.HandedOver(
        site="alpha",
        sequence=before.length + 1,
        previous_key=ALPHA.hex(),
        identity_key=public.hex(),
        time_s=0,
    )
    line = ledger.seal(entry, key_of("alpha"))
    after = before.extended([line])
    assert archive.take_in("alpha", [x.line for x in after.links], head_of(after, heir), public)
    assert archive.chain("alpha", ALPHA) == archive.chain("alpha", public) == after
    assert LedgerArchive(archive.path).chain("alpha", public) == after


def test_a_ledger_that_ends_with_an_earlier_key_is_not_taken_in(archive):
    """The thief of a key that was replaced adds entries; an empty ledger's head fits any."""
    heir = key_of("heir")
    stolen = opened("alpha", key_of("alpha"))
    empty = ledger.sign_head(heir, "alpha", 0, ledger.NOTHING)
    with pytest.raises(ledger.LedgerFault):
        archive.take_in("alpha", [x.line for x in stolen.links], empty, signing.public_bytes(heir))
    assert archive.sites == ()
