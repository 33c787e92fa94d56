"""Ledger heads and epoch keys at the registry, as a hospital checks them."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from registry_consortium import Consortium

from client import cli_registry_verified
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.registry_ledgers import compared
from server import rosters
from server.epochs import EpochBook
from server.ledgers import LedgerArchive
from shared_model import canonical, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.ledger import Chain, LedgerHead, sign_head
from shared_model.protocol import EpochKeyEntry
from shared_model.protocol_sum import epoch_key_statement
from shared_model.registry import HeadEntry

KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, site in enumerate(("alpha", "beta"), 1)
}
PUBLIC = {site: (signing.public_bytes(key),) for site, key in KEYS.items()}
OWN = Chain("alpha", *PUBLIC["alpha"])
DIGEST, OTHER = "ab" * 32, "cd" * 32


def head(site: str, length: int, digest: str = DIGEST, signer: str = "") -> LedgerHead:
    return sign_head(KEYS[signer or site], site, length, digest)


@pytest.mark.parametrize(
    ("shown", "held", "verdict"),
    [
        (head("beta", 5), None, "new"),
        (head("beta", 5), head("beta", 5), "same"),
        (head("beta", 6), head("beta", 5), "grown"),
        (head("beta", 4), head("beta", 5), "older"),
        (head("beta", 5, OTHER), head("beta", 5), "forked"),
        (head("beta", 5, signer="alpha"), head("beta", 5), "unsigned"),
    ],
)
def test_each_head_of_a_peer_gets_its_verdict(
    shown: LedgerHead, held: LedgerHead | None, verdict: str
) -> None:
    known = {} if held is None else {"beta": held}
    (found,) = compared(OWN, known, [HeadEntry(site="beta", ledger=shown)], PUBLIC)
    assert found.verdict == verdict
    assert found.alarm == (verdict in ("forked", "unsigned"))


@pytest.mark.parametrize(
    ("shown", "verdict"),
    [
        (sign_head(KEYS["alpha"], "alpha", 0, OWN.head), "same"),
        (head("alpha", 3), "lost"),
        (sign_head(KEYS["alpha"], "alpha", 0, OTHER), "forked"),
        (sign_head(KEYS["beta"], "alpha", 3, DIGEST), "unsigned"),
    ],
)
def test_the_own_head_is_held_against_the_own_ledger(shown: LedgerHead, verdict: str) -> None:
    (found,) = compared(OWN, {}, [HeadEntry(site="alpha", ledger=shown)], PUBLIC)
    assert found.verdict == verdict


def test_a_site_of_no_approved_roster_is_named_as_such() -> None:
    (found,) = compared(OWN, {}, [HeadEntry(site="beta", ledger=head("beta", 1))], {})
    assert (found.verdict, found.alarm) == ("unknown-site", False)


def incident(node: NodeHome, site: str) -> LedgerHead:
    with LedgerStore.open(node, site, signing.load_key_file(node.identity_key)) as store:
        store.incident("spring", 1, "secure-sum", 1e-6)
        return store.signed_head()


def show(consortium: Consortium, site: str, shown: LedgerHead) -> None:
    """As the coordinator stores a head that came with a reply."""
    folder = consortium.service.home.ledgers
    folder.mkdir(exist_ok=True)
    data = canonical.encode(shown.model_dump(mode="json"))
    (folder / f"{site}.head.json").write_bytes(data)
    assert LedgerArchive(folder).heads()[site] == shown


def test_a_hospital_sees_its_own_ledger_at_the_registry(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha = consortium.all_joined()[0]
    show(consortium, "alpha", incident(alpha, "alpha"))
    capsys.readouterr()
    cli_registry_verified.show_ledgers(alpha.root, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["site"], row["verdict"]) == ("alpha", "same")


def test_a_ledger_that_is_shorter_than_what_was_signed_is_refused(consortium: Consortium) -> None:
    """As after a restore of the whole machine, which the node itself cannot notice."""
    alpha = consortium.all_joined()[0]
    key = signing.load_key_file(alpha.identity_key)
    show(consortium, "alpha", sign_head(key, "alpha", 9, DIGEST))
    with pytest.raises(Refused) as error:
        cli_registry_verified.show_ledgers(alpha.root)
    assert error.value.reason == "restored"


def test_a_head_that_its_hospital_did_not_sign_is_a_peers_fault(consortium: Consortium) -> None:
    alpha, beta, _ = consortium.all_joined()
    show(
        consortium, "beta", sign_head(signing.load_key_file(alpha.identity_key), "beta", 1, DIGEST)
    )
    with pytest.raises(PeerFault) as error:
        cli_registry_verified.show_ledgers(alpha.root)
    assert error.value.site == "beta"
    assert beta.config.exists()


def test_without_an_approved_roster_no_head_is_believed(consortium: Consortium) -> None:
    with pytest.raises(OurMistake, match="No roster is approved"):
        cli_registry_verified.show_ledgers(consortium.join("alpha").root)


def epoch_of(consortium: Consortium, signer: NodeHome, site: str) -> None:
    home = consortium.service.home
    signed = rosters.current(home)
    assert signed is not None
    book = EpochBook(home.root / "epochs.json")
    epoch = book.begin(signed.roster, "spring", 1_800_000_000.0)
    entry = EpochKeyEntry(site=site, public_key="09" + "00" * 31, signature="00" * 64)
    statement = epoch_key_statement(entry, epoch.number, epoch.roster_digest)
    key = signing.load_key_file(signer.identity_key)
    signature = signing.sign(key, "epoch-key", statement).hex()
    book.accept(entry.model_copy(update={"signature": signature}))


def test_the_keys_of_the_epoch_are_verified_at_the_hospital(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta, _ = consortium.all_joined()
    with pytest.raises(Refused) as none_yet:
        cli_registry_verified.show_epoch(alpha.root)
    assert none_yet.value.reason == "no-epoch"
    epoch_of(consortium, beta, "beta")
    capsys.readouterr()
    cli_registry_verified.show_epoch(alpha.root, as_json=True)
    keys = {row["site"]: row["key"] for row in json.loads(capsys.readouterr().out)["keys"]}
    assert keys == {"alpha": None, "beta": "09" + "00" * 31, "gamma": None}


def test_an_epoch_key_that_its_hospital_did_not_sign_is_refused(consortium: Consortium) -> None:
    alpha, _, gamma = consortium.all_joined()
    epoch_of(consortium, gamma, "beta")
    with pytest.raises(PeerFault) as error:
        cli_registry_verified.show_epoch(alpha.root)
    assert error.value.site == "beta"
