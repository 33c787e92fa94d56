"""Is a round the one that this node computes itself: its site, its roster, its sum, its epoch keys?

What is refused here is refused before policy, model and data are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared_model import canonical, protocol_open, signing
from shared_model.config import MINIMUM_CONTRIBUTORS
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol import TrainRequest
from shared_model.protocol_sum import epoch_key_statement
from shared_model.roster import Roster, weight_of
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.transcript import Transcript, of_request

if TYPE_CHECKING:
    from client.node_interfaces import Node


@dataclass(frozen=True)
class SumRound:
    """What this node knows of a round: the request, and its members as approved when it began.

    header: of the request. weights, identity_keys (32 raw bytes): by site.
    """

    request: TrainRequest
    header: bytes = field(repr=False)
    transcript: Transcript
    weights: Mapping[str, int]
    identity_keys: Mapping[str, bytes]

    @property
    def masked(self) -> bool:
        return self.request.sum.aggregation == "secure-sum"

    def member(self, node: Node) -> Member:
        """This site with its epoch key.

        Raises:
            Refused: the key is gone, or the request names another as this site's ("epoch").
        """
        plan = self.request.sum
        key = node.epochs.key(plan.epoch, plan.roster_digest)
        public = {entry.site: bytes.fromhex(entry.public_key) for entry in plan.epoch_keys}
        try:
            return Member(node.site, key, public, bytes.fromhex(plan.roster_digest), plan.epoch)
        except OurMistake as error:
            raise Refused(error.message, reason="epoch") from error

    def to_bytes(self) -> bytes:
        """As the outbox keeps it."""
        return canonical.encode(
            {
                "request": self.header.hex(),
                "weights": dict(self.weights),
                "identity_keys": {site: key.hex() for site, key in self.identity_keys.items()},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, run_key: bytes) -> SumRound:
        """The reverse of `to_bytes`, from this node's own file."""
        content: dict[str, Any] = json.loads(data)
        header = bytes.fromhex(content["request"])
        request = protocol_open.open_train_request(header, run_key)
        weights = {str(site): int(weight) for site, weight in content["weights"].items()}
        keys = {str(site): bytes.fromhex(key) for site, key in content["identity_keys"].items()}
        return cls(request, header, of_request(request, weights), weights, keys)


def check_addressed(request: TrainRequest, site: str, declared_patients: int) -> None:
    """The request is for this site, as it is enrolled, and no sum of one.

    Raises:
        Refused: reasons "roster", "contributors".
    """
    own = [item for item in request.participants if item.site == site]
    if not own:
        raise Refused("The request does not name this site.", reason="roster")
    if own[0].declared_patients != declared_patients:
        raise Refused(
            "The request names another declared number of patients for this site.",
            reason="roster",
            do="Compare node.toml with the card that the coordinator enrolled.",
        )
    if min(request.minimum_contributors, len(request.participants)) < MINIMUM_CONTRIBUTORS:
        raise Refused("No aggregate has so few contributors.", reason="contributors")


def planned(
    node: Node, request: TrainRequest, header: bytes
) -> tuple[SumRound, Member | None, Roster]:
    """The round as this node computes it, and its roster; no member if masks are off.

    Raises:
        Refused: reasons "secure-sum", "roster", "roster-approval", "threshold", "epoch".
    """
    plan = request.sum
    if plan.aggregation != "secure-sum" and not node.allow_unmasked:
        raise Refused(
            "The round would show this hospital's update to the coordinator in clear.",
            reason="secure-sum",
        )
    roster = node.rosters.approved()
    weights = _check_roster(request, roster)
    try:
        transcript = of_request(request, weights)
    except OurMistake as error:
        raise Refused(error.message, reason="secure-sum") from error
    _check_mode(request, roster)
    keys = {entry.site: entry.identity for entry in roster.sites}
    sum_round = SumRound(request, header, transcript, weights, keys)
    if not sum_round.masked:
        return sum_round, None, roster
    _check_epoch_keys(request, keys)
    member = sum_round.member(node)
    try:
        for peer in request.sites:
            member.pair_secret(peer)
    except PeerFault as error:
        raise Refused(error.message, reason="secure-sum") from error
    return sum_round, member, roster


def _check_roster(request: TrainRequest, roster: Roster) -> dict[str, int]:
    """Weights by site, recomputed, if the request keeps to the approved roster."""
    plan = request.sum
    if plan.roster_digest != roster.digest:
        raise Refused(
            f"The request is for another roster than the approved version {roster.version}.",
            reason="roster",
            do="See: fedprint-node roster show",
        )
    for participant in request.participants:
        if participant.site not in roster.names:
            raise Refused(f"The approved roster has no {participant.site}.", reason="roster")
        if participant.declared_patients != roster.entry(participant.site).declared_patients:
            raise Refused(
                f"The request names another declared number of {participant.site}.", reason="roster"
            )
    if plan.threshold != roster.threshold:
        raise Refused("The request names another threshold than the roster.", reason="threshold")
    if len(request.participants) < roster.threshold:
        raise Refused(
            f"The round asks {len(request.participants)} sites, fewer than the threshold, "
            f"{roster.threshold}.",
            reason="threshold",
        )
    largest = max(entry.declared_patients for entry in roster.sites)
    return {entry.site: weight_of(entry.declared_patients, largest) for entry in roster.sites}


def _check_mode(request: TrainRequest, roster: Roster) -> None:
    """In mode distributed no other hospital may be able to take away all noise but its own."""
    if request.privacy.mode == "distributed" and roster.collusion_bound < 1:
        raise Refused(
            "In mode distributed each of so few hospitals would be protected from the others by "
            "nothing but its own share of the noise.",
            reason="threshold",
            do="The operator asks a roster of at least 3 hospitals, with its default threshold, "
            "or chooses mode local.",
        )


def _check_epoch_keys(request: TrainRequest, identity_keys: Mapping[str, bytes]) -> None:
    """Every participant has a key of this epoch, signed by its site of the roster."""
    plan = request.sum
    keyed = {entry.site for entry in plan.epoch_keys}
    if not set(request.sites) <= keyed:
        raise Refused("A participant has no key of this epoch.", reason="epoch")
    if not keyed <= set(identity_keys):
        raise Refused("An epoch key is of a site that is in no roster here.", reason="roster")
    for entry in plan.epoch_keys:
        statement = epoch_key_statement(entry, plan.epoch, plan.roster_digest)
        signature = bytes.fromhex(entry.signature)
        try:
            signing.verify(identity_keys[entry.site], "epoch-key", statement, signature)
        except Refused as error:
            raise Refused(
                f"The epoch key of {entry.site} is not signed by {entry.site} for this epoch.",
                reason="secure-sum",
                do="Somebody may have exchanged it: ask the coordinator's operator.",
            ) from error
