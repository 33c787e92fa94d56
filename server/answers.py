"""What a site sent, held against everything the coordinator knows about it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from server.aggregation import read_update
from server.run_config import RosterSite
from shared_model import protocol
from shared_model.errors import PeerFault
from shared_model.protocol import Refusal, TrainReply, TrainRequest


def read_answer(
    header: bytes,
    body: bytes,
    *,
    enrolled: RosterSite,
    request: TrainRequest,
    trainable: Mapping[str, np.ndarray],
) -> TrainReply | Refusal:
    """A legal answer of this site with a legal update. Run, round and request are not looked at:
    that is for the round's machine, which tells a late answer from a wrong one.

    Raises:
        PeerFault: names the site; wrong signature, message, body, declared patients, weight or
            update.
    """
    site = enrolled.site
    answer = protocol.open_answer(header, enrolled.key, site=site)
    if isinstance(answer, Refusal):
        if body:
            raise PeerFault(f"A refusal of {site} has a body.", site=site)
        return answer
    protocol.check_body(answer.body_digest, body, site=site)
    if answer.declared_patients != enrolled.declared_patients:
        raise PeerFault(f"{site} declares another number of patients.", site=site)
    weight = protocol.aggregation_weight(enrolled.declared_patients, request.participants)
    if answer.weight != weight:
        raise PeerFault(f"{site} claims another aggregation weight.", site=site)
    read_update(body, trainable, answer.update_digest, site=site)
    return answer
