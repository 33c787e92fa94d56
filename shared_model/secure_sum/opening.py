"""Trip 3: what each survivor opens, how it is checked, and the seeds that it adds up to.

A node opens for each site **either** shares of its self seed (survivors) **or** pair seeds with it
(the dropped), never both: the callers have made sure that it signed this one set of survivors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.secure_sum import shamir
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.primitives import DIGEST_BYTES, SEED_BYTES, tagged_hash
from shared_model.secure_sum.submission import (
    NONCE,
    SALT_BYTES,
    Submission,
    associated_data,
    pair_commitment,
    row_bytes,
    self_commitment,
    share_commitments,
)
from shared_model.secure_sum.transcript import Transcript


@dataclass(frozen=True)
class Opened:
    """What a node answers in trip 3.

    unreadable: dealers whose row does not open (changed on the way, or by the dealer).
    accused: dealers that sealed another share than they committed to in the same row.
    """

    body: bytes = field(repr=False)
    unreadable: tuple[str, ...]
    accused: tuple[str, ...]


@dataclass(frozen=True)
class SharesOf:
    """One survivor's opened values.

    self_shares: survivor -> its share of that survivor's self seed. pair_seeds: dropped site ->
    the opener's pair seed with it. pair_shares: (missing survivor, dropped site) -> its share.
    """

    self_shares: Mapping[str, bytes] = field(repr=False)
    pair_seeds: Mapping[str, bytes] = field(repr=False)
    pair_shares: Mapping[tuple[str, str], bytes] = field(repr=False)


@dataclass(frozen=True)
class Seeds:
    """All that has to be opened. pair_seeds: (survivor, dropped site) -> seed."""

    self_seeds: Mapping[str, bytes] = field(repr=False)
    pair_seeds: Mapping[tuple[str, str], bytes] = field(repr=False)


def rows_body(submissions: Mapping[str, Submission], receiver: str) -> bytes:
    """Body of an open request: salt and row of each survivor for this receiver, sorted by site."""
    return b"".join(
        submissions[site].salt + submissions[site].row(receiver) for site in sorted(submissions)
    )


def open_rows(
    member: Member,
    transcript: Transcript,
    survivors: tuple[str, ...],
    missing: tuple[str, ...],
    body: bytes,
) -> Opened:
    """What this node opens for one set of survivors.

    Args:
        survivors: the set that it has signed; itself included.
        missing: survivors that do not answer any more.
        body: of the open request.

    Raises:
        PeerFault: of "coordinator"; the body has another length.
        OurMistake: survivors or missing are not what they must be.
    """
    dropped = transcript.dropped(survivors)
    if member.site not in survivors or not set(missing) <= set(survivors):
        raise OurMistake("A node opens for survivors, of whom it is one.")
    size = SALT_BYTES + row_bytes(transcript)
    if len(body) != size * len(survivors):
        raise PeerFault("The sealed rows have a wrong length.", site="coordinator")
    shares: dict[str, list[bytes]] = {}
    unreadable, accused = [], []
    for place, dealer in enumerate(survivors):
        piece = body[place * size : (place + 1) * size]
        found = _open_row(member, transcript, dealer, piece)
        if found is None:
            unreadable.append(dealer)
        elif not found[1]:
            accused.append(dealer)
        else:
            shares[dealer] = found[0]
    parts = [shares[dealer][0] for dealer in survivors if dealer in shares]
    parts += [member.pair_seed(site, transcript.digest) for site in dropped]
    for dealer in missing:
        if dealer in shares:
            peers = transcript.peers(dealer)
            parts += [shares[dealer][1 + peers.index(site)] for site in dropped]
    return Opened(b"".join(parts), tuple(unreadable), tuple(accused))


def _open_row(
    member: Member, transcript: Transcript, dealer: str, piece: bytes
) -> tuple[list[bytes], bool] | None:
    """Shares of a row and whether they are the committed ones; None if it does not open."""
    count = len(transcript.participants)
    salt, row = piece[:SALT_BYTES], piece[SALT_BYTES:]
    committed, sealed = row[: count * DIGEST_BYTES], row[count * DIGEST_BYTES :]
    digest = transcript.digest
    key = member.share_key(dealer, member.site, digest, salt)
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            NONCE, sealed, associated_data(digest, dealer, member.site, committed)
        )
    except InvalidTag:
        return None
    shares = [plain[at : at + SEED_BYTES] for at in range(0, len(plain), SEED_BYTES)]
    found = share_commitments(transcript, dealer, member.site, shares)
    return shares, b"".join(found) == committed


def read_shares(
    body: bytes,
    transcript: Transcript,
    survivors: tuple[str, ...],
    missing: tuple[str, ...],
    opener: str,
    unreadable: tuple[str, ...] = (),
    accused: tuple[str, ...] = (),
) -> SharesOf:
    """Parse the body of a survivor's answer.

    Raises:
        PeerFault: of the opener; another length, or a dealer named that is no survivor.
    """
    lost = set(unreadable) | set(accused)
    if not lost <= set(survivors) or set(unreadable) & set(accused):
        raise PeerFault(f"The shares of {opener} name other sites.", site=opener)
    dropped = transcript.dropped(survivors)
    dealers = [site for site in survivors if site not in lost]
    gone = [site for site in missing if site not in lost]
    wanted = len(dealers) + len(dropped) * (1 + len(gone))
    if len(body) != SEED_BYTES * wanted:
        raise PeerFault(f"The shares of {opener} have a wrong length.", site=opener)
    values = iter([body[at : at + SEED_BYTES] for at in range(0, len(body), SEED_BYTES)])
    return SharesOf(
        self_shares={site: next(values) for site in dealers},
        pair_seeds={site: next(values) for site in dropped},
        pair_shares={(dealer, site): next(values) for dealer in gone for site in dropped},
    )


def check_shares(shares: SharesOf, opener: str, submissions: Mapping[str, Submission]) -> None:
    """Every opened value is the one that was committed to in trip 1.

    Args:
        submissions: of the survivors; the opener's own included.

    Raises:
        PeerFault: of the opener. It has seen in the row that the dealer's commitment fits, or else
            would have named the dealer.
    """
    transcript = submissions[opener].transcript
    digest = transcript.digest
    for dealer, share in shares.self_shares.items():
        _hold(transcript, submissions[dealer], opener, None, share)
    for (dealer, site), share in shares.pair_shares.items():
        _hold(transcript, submissions[dealer], opener, site, share)
    for site, seed in shares.pair_seeds.items():
        if pair_commitment(digest, opener, site, seed) != submissions[opener].pair_commitment(site):
            raise PeerFault(
                f"{opener} opened another pair seed with {site} than it had committed to.",
                site=opener,
            )


def _hold(
    transcript: Transcript, dealt: Submission, opener: str, peer: str | None, share: bytes
) -> None:
    tag, names = "share-of-self", [dealt.dealer, opener]
    if peer is not None:
        tag, names = "share-of-pair", [dealt.dealer, peer, opener]
    if tagged_hash(tag, transcript.digest, *names, share) != dealt.share_commitment(opener, peer):
        raise PeerFault(
            f"{opener} opened another share of {dealt.dealer} than the committed one.", site=opener
        )


def rebuild_seeds(
    transcript: Transcript,
    survivors: tuple[str, ...],
    shares: Mapping[str, SharesOf],
    submissions: Mapping[str, Submission],
) -> Seeds:
    """The survivors' self seeds, and the pair seeds of each survivor with each dropped site.

    Args:
        shares: opener -> what it opened, checked by `check_shares`.

    Raises:
        PeerFault: of a dealer whose committed shares do not lie on one polynomial with the secret
            that it committed to.
        Refused: reason "secure-sum"; fewer than t shares of something.
    """
    digest = transcript.digest
    self_seeds, pair_seeds = {}, {}
    for dealer in survivors:
        held = {o: found.self_shares[dealer] for o, found in shares.items()
                if dealer in found.self_shares}  # fmt: skip
        seed = _rebuilt(transcript, dealer, held)
        if self_commitment(digest, dealer, seed) != submissions[dealer].self_commitment:
            raise _cheated(dealer)
        self_seeds[dealer] = seed
        for site in transcript.dropped(survivors):
            if dealer in shares:
                pair_seeds[dealer, site] = shares[dealer].pair_seeds[site]
                continue
            held = {o: found.pair_shares[dealer, site] for o, found in shares.items()
                    if (dealer, site) in found.pair_shares}  # fmt: skip
            seed = _rebuilt(transcript, dealer, held)
            committed = submissions[dealer].pair_commitment(site)
            if pair_commitment(digest, dealer, site, seed) != committed:
                raise _cheated(dealer)
            pair_seeds[dealer, site] = seed
    return Seeds(self_seeds, pair_seeds)


def _rebuilt(transcript: Transcript, dealer: str, held: Mapping[str, bytes]) -> bytes:
    if len(held) < transcript.threshold:
        raise Refused(
            f"{len(held)} of {transcript.threshold} shares of a seed of {dealer} are here.",
            reason="secure-sum",
            do="The round is closed; the next one begins anew.",
        )
    chosen = sorted(held)[: transcript.threshold]
    return shamir.rebuild({transcript.index(opener): held[opener] for opener in chosen})


def _cheated(dealer: str) -> PeerFault:
    return PeerFault(
        f"The shares of {dealer} do not add up to the seed that it committed to.",
        site=dealer,
        do="The round is closed; leave the site out until its operator has explained.",
    )
