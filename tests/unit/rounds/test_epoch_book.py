"""The coordinator's book of epochs: what a key must be to be taken, and what a restart finds."""

from __future__ import annotations

import pytest
from node_stand_ins import SITES, key_of, signed_roster
from round_stand_ins import begun, folder_at

from server import epochs
from server.epochs import EpochBook, read_key
from server.run_start import plan_of
from shared_model import protocol
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import Refusal
from shared_model.protocol_sum import EpochKey

ROSTER = signed_roster().roster


@pytest.fixture
def book(tmp_path):
    return EpochBook(tmp_path / "epochs.json")


def statement(who, now, public_key=None, *, signer=None, **changes):
    """A site's key of an epoch, as it signs it."""
    values = {
        "site": who,
        "epoch": now.number,
        "roster_digest": now.roster_digest,
        "public_key": public_key or who.encode().hex().ljust(64, "0"),
    }
    return protocol.seal(EpochKey(**{**values, **changes}), key_of(signer or who))


def take(book, site, **changes):
    epoch = book.current
    header = statement(site, epoch, **changes)
    return book.accept(read_key(header, b"", site=site, epoch=epoch, roster=ROSTER))


def test_epochs_increase_also_when_the_clock_goes_back_or_the_book_is_lost(book):
    """The seconds since 1970 are the floor."""
    assert book.begin(ROSTER, "spring", 5000.9).number == 5000
    assert book.begin(ROSTER, "spring", 5000.9).number == 5001
    assert book.begin(ROSTER, "spring", 10.0).number == 5002
    book.path.unlink()
    assert book.begin(ROSTER, "spring", 6000.0).number == 6000


def test_a_new_epoch_forgets_the_keys_of_the_one_before(book):
    """They are worthless: nodes have erased theirs."""
    book.begin(ROSTER, "spring", 1.0)
    take(book, "alpha")
    assert book.of(ROSTER, "spring").sites == {"alpha"}
    book.begin(ROSTER, "spring", 1.0)
    assert book.of(ROSTER, "spring").sites == frozenset()


def test_a_restart_finds_the_keys_as_they_were_signed(book):
    """Sorted by site, each verified again against the roster."""
    book.begin(ROSTER, "spring", 1.0)
    for site in reversed(SITES):
        take(book, site)
    found = EpochBook(book.path).of(ROSTER, "spring")
    assert [entry.site for entry in found.keys] == list(SITES)


def test_keys_of_another_roster_are_not_used(book):
    """A new version of the roster needs a new epoch."""
    book.begin(ROSTER, "spring", 1.0)
    assert book.of(signed_roster(version=2).roster, "spring") is None
    assert EpochBook(book.path.with_name("none.json")).of(ROSTER, "spring") is None


def test_keys_of_another_run_are_not_used(book):
    """Each run begins with a new epoch: the request for its key shows the hospitals its plan."""
    book.begin(ROSTER, "spring", 1.0)
    assert book.of(ROSTER, "spring").number == 1
    assert book.of(ROSTER, "autumn") is None


BAD = {
    "a key that leads to no secret": {"public_key": "00" * 32},
    "another site's signature": {"signer": "beta"},
    "another epoch": {"epoch": 77},
    "another roster": {"roster_digest": "0" * 64},
    "another site": {"site": "beta"},
}


@pytest.mark.parametrize("what", BAD)
def test_a_key_that_does_not_fit_names_its_site(book, what):
    """Nothing of it is stored."""
    epoch = book.begin(ROSTER, "spring", 1.0)
    changes = dict(BAD[what])
    header = statement("alpha", epoch, signer=changes.pop("signer", None), **changes)
    with pytest.raises(PeerFault) as caught:
        read_key(header, b"", site="alpha", epoch=epoch, roster=ROSTER)
    assert caught.value.site == "alpha"


def test_a_key_that_another_site_has_given_names_who_copied_it(book):
    """Whoever repeats another's public key would share that site's pair secrets with itself."""
    book.begin(ROSTER, "spring", 1.0)
    take(book, "alpha", public_key="2b" * 32)
    with pytest.raises(PeerFault, match="of another site") as caught:
        take(book, "beta", public_key="2b" * 32)
    assert caught.value.site == "beta"
    assert take(book, "alpha", public_key="2b" * 32).sites == {"alpha"}


def test_a_key_has_no_body_and_a_refusal_is_passed_on(book):
    """A refusal is signed like any answer."""
    epoch = book.begin(ROSTER, "spring", 1.0)
    with pytest.raises(PeerFault, match="body"):
        read_key(statement("alpha", epoch), b"x", site="alpha", epoch=epoch, roster=ROSTER)
    refusal = Refusal(
        run="unknown", round=1, site="alpha", request_digest="0" * 64, reason="roster-approval"
    )
    header = protocol.seal(refusal, key_of("alpha"))
    assert read_key(header, b"", site="alpha", epoch=epoch, roster=ROSTER) == refusal


def test_a_damaged_book_says_what_to_do(book):
    """A key in it that its site has not signed is as bad as no JSON."""
    book.begin(ROSTER, "spring", 1.0)
    take(book, "alpha", public_key="2b" * 32)
    text = book.path.read_text()
    book.path.write_text(text.replace("2b" * 32, "2c" * 32))
    with pytest.raises(OurMistake, match="alpha has not signed") as caught:
        book.of(ROSTER, "spring")
    assert "new epoch" in caught.value.do
    book.path.write_text("{}")
    with pytest.raises(OurMistake, match="not a book"):
        book.of(ROSTER, "spring")


@pytest.mark.parametrize(
    ("alpha", "beta", "words"),
    [("00" * 32, "2b" * 32, "alpha that nobody can use"), ("2b" * 32, "2b" * 32, "two sites")],
)
def test_a_book_with_keys_that_would_stop_every_round_is_not_used(book, alpha, beta, words):
    """As an earlier version took them: well signed, but of small order, or the same key twice."""
    epoch = book.begin(ROSTER, "spring", 1.0)
    for site, public_key in (("alpha", alpha), ("beta", beta)):
        signature = statement(site, epoch, public_key)[: protocol.SIGNATURE_BYTES].hex()
        entry = {"site": site, "public_key": public_key, "signature": signature}
        book.accept(protocol.EpochKeyEntry(**entry))
    with pytest.raises(OurMistake, match=words) as caught:
        book.of(ROSTER, "spring")
    assert "new epoch" in caught.value.do


def test_the_rounds_that_an_epoch_has_served_are_counted_over_restarts(book):
    """Of whatever run; a new epoch begins at none, and a book from before the count does too."""
    with pytest.raises(OurMistake, match="No epoch"):
        book.use()
    book.begin(ROSTER, "spring", 1.0)
    assert [book.use().used, book.use().used, EpochBook(book.path).of(ROSTER, "spring").used] == [
        1,
        2,
        2,
    ]
    take(book, "alpha")
    assert book.of(ROSTER, "spring").used == 2
    assert book.begin(ROSTER, "spring", 1.0).used == 0
    book.path.write_text(book.path.read_text().replace(',"used":0', ""))
    assert book.of(ROSTER, "spring").used == 0


def test_no_key_is_taken_before_an_epoch_has_begun(book):
    """There is nothing that it could be a key of."""
    with pytest.raises(OurMistake, match="No epoch"):
        book.accept(protocol.EpochKeyEntry(site="alpha", public_key="0" * 64, signature="0" * 128))


def test_the_request_commits_to_the_roster_that_goes_with_it(book, tmp_path):
    """Nodes check both digests."""
    epoch = book.begin(ROSTER, "spring", 3.0)
    begun(tmp_path)
    plan = plan_of(folder_at(tmp_path).record())
    message = epochs.request(epoch, b"document", plan, "test")
    assert message.plan == plan
    assert message.body_digest == protocol.canonical.digest(b"document")
    assert (message.epoch, message.roster_digest) == (3, ROSTER.digest)
