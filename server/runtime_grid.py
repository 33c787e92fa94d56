"""Flower's Grid to a real SuperLink, for a coordinator that waits for nobody in particular.

Flower's own fetches a reply as soon as its first byte is announced and then waits until the node
has sent the last one: a site with a slow line, or with none since a minute, holds up all others,
and their deadlines. Here an upload that is not complete is looked at again at the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from logging import ERROR
from typing import Any, cast

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import HttpGrid

from shared_model import known_source
from shared_model.protocol import MAX_BODY_BYTES

LARGEST_BYTES = MAX_BODY_BYTES + 64 * 1024 * 1024
"""Of one reply: the largest body, and room for everything around it."""
KNOWN: Mapping[Callable[..., Any], str] = {
    HttpGrid.pull_messages: "67a5266a5a2ed515",
    HttpGrid.push_messages: "9aa5938ad18d36f9",
}


@dataclass
class _Arriving:
    """A reply of which the SuperLink does not have everything yet.

    objects: in the order in which they are asked for. have: object id -> content. size: of all
    that it has, bytes.
    """

    id: str
    objects: tuple[str, ...]
    have: dict[str, bytes] = field(default_factory=dict, repr=False)
    size: int = 0


class PatientGrid(HttpGrid):
    """`pull_messages` returns at once."""

    def __init__(self, address: str, *, root_certificates: bytes, token: str) -> None:
        known_source.check(KNOWN, "Flower")
        super().__init__(address, root_certificates=root_certificates, token=token)
        self._arriving: dict[str, _Arriving] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that are complete."""
        wanted = set(message_ids)
        self._arriving = {asked: one for asked, one in self._arriving.items() if asked in wanted}
        unseen = wanted - set(self._arriving)
        if unseen:
            answer = self._runtime_client.PullMessages(
                PullAppMessagesRequest(message_ids=sorted(unseen))
            )
            trees = answer.message_object_trees
            for message, tree in zip(answer.messages_list, trees, strict=True):
                self._arriving[message.metadata.reply_to_message_id] = _Arriving(
                    message.metadata.message_id,
                    tuple(dict.fromkeys(part.object_id for part in iterate_object_tree(tree))),
                )
        found = []
        for asked, one in list(self._arriving.items()):
            reply = self._look(asked, one)
            if reply is not None:
                del self._arriving[asked]
                found.append(reply)
        return found

    def has_taken(self, message_id: str) -> bool:
        """Whether the node has said that it has all of this message; else it will get it."""
        answer = self._runtime_client.PullObject(self._object(message_id))
        return not answer.object_found

    def _look(self, asked: str, one: _Arriving) -> Message | None:
        """The reply, if it is complete; an error in its place, if it never will be."""
        for identifier in one.objects:
            if identifier in one.have:
                continue
            answer = self._runtime_client.PullObject(self._object(identifier))
            if not answer.object_found:
                return _error(self.run.run_id, asked, ErrorCode.MESSAGE_UNAVAILABLE)
            if not answer.object_available:
                return None
            one.size += len(answer.object_content)
            if one.size > LARGEST_BYTES:
                log(ERROR, "a reply is larger than any; it is given up")
                return _error(self.run.run_id, asked, ErrorCode.UNKNOWN)
            one.have[identifier] = answer.object_content
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=self.run.run_id, message_object_id=one.id
            )
        )
        try:
            message = cast(Message, inflate_object_from_contents(one.id, one.have))
        except Exception as error:  # whatever it is, it is this site's alone
            log(ERROR, "a reply cannot be unpacked (%s)", type(error).__name__)
            return _error(self.run.run_id, asked, ErrorCode.UNKNOWN)
        message.metadata.__dict__["_message_id"] = one.id
        return message

    def _object(self, identifier: str) -> PullObjectRequest:
        return PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=identifier)


def _error(run: int, asked: str, code: int) -> Message:
    """As Flower's own grid says that no reply comes."""
    return make_message(
        metadata=Metadata(
            run_id=run,
            message_id="",
            src_node_id=0,
            dst_node_id=0,
            message_type=SYSTEM_MESSAGE_TYPE,
            group_id="",
            ttl=0,
            reply_to_message_id=asked,
            created_at=now().timestamp(),
        ),
        error=Error(code, "no reply"),
    )
