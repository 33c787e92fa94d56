"""Flower's Grid as the coordinator's `Transport`: addresses, bytes and one word for each error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import ERROR

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from server.transport import Incoming, Outgoing
from shared_model.errors import OurMistake

RECORD = "fedprint"
HEADER = "header"
BODY = "body"
SITE = "site"
"""Whom the coordinator means. For engines that simulate; a deployed node knows who it is."""

_WORDS = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "crashed",
    ErrorCode.CLIENT_APP_CRASHED: "crashed",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "crashed",
    ErrorCode.NODE_UNAVAILABLE: "unreachable",
    ErrorCode.MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.INVALID_FAB: "bundle-refused",
}

Directory = Callable[[Iterable[NodeInfo]], dict[str, int]]


def by_node_key(keys: Mapping[bytes, str]) -> Directory:
    """Sites by the public key that each node proved to hold when it connected.

    A node's self-chosen name counts for nothing; a key that is not in the roster is left out.

    Args:
        keys: node public key (SubjectPublicKeyInfo, PEM) -> site.
    """

    def directory(nodes: Iterable[NodeInfo]) -> dict[str, int]:
        return {keys[n.public_key]: n.node_id for n in nodes if n.public_key in keys}

    return directory


def in_order(sites: Sequence[str]) -> Directory:
    """Sites on nodes that have no keys: the i-th site on the i-th node id. Simulations only."""

    def directory(nodes: Iterable[NodeInfo]) -> dict[str, int]:
        return dict(zip(sites, sorted(node.node_id for node in nodes), strict=False))

    return directory


@dataclass
class GridTransport:
    """Implements `server.transport.Transport`.

    Args:
        ttl_s: how long Flower keeps a message and its reply; at least the round's deadline.
    """

    grid: Grid
    directory: Directory
    ttl_s: float
    _asked: dict[str, tuple[str, int]] = field(default_factory=dict, repr=False)

    def sites(self) -> Mapping[str, int]:
        """Site -> Flower's node id, of the nodes that are online."""
        return self.directory(self.grid.get_nodes())

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        """Send to the sites that are online; "" for those that are not. A site may get several."""
        online = self.sites()
        there = [place for place, message in enumerate(messages) if message.site in online]
        made = [self._message(messages[place], online[messages[place].site]) for place in there]
        ids = list(self.grid.push_messages(made)) if made else []
        if len(ids) < len(there):  # Flower refused the whole lot, for example as too large
            ids += [""] * (len(there) - len(ids))
        sent = [""] * len(messages)
        for place, identifier in zip(there, ids, strict=True):
            if identifier:
                site = messages[place].site
                self._asked[identifier] = (site, online[site])
                sent[place] = identifier
        return sent

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        """What has arrived since the last call. Never waits.

        A reply that Flower cannot even unpack counts as lost, error "malformed": one site must not
        be able to end the run of all.
        """
        waiting = [identifier for identifier in ids if identifier in self._asked]
        if not waiting:
            return []
        try:
            replies = list(self.grid.pull_messages(waiting))
        except (httpx.HTTPError, OSError):
            raise  # the SuperLink itself, not what a site has sent
        except Exception as error:
            log(ERROR, "a reply cannot be unpacked (%s)", type(error).__name__)
            return [item for identifier in waiting for item in self._pull_one(identifier)]
        return [self._incoming(reply) for reply in replies]

    def _pull_one(self, identifier: str) -> list[Incoming]:
        try:
            return [self._incoming(reply) for reply in self.grid.pull_messages([identifier])]
        except (httpx.HTTPError, OSError):
            raise
        except Exception:
            site, _ = self._asked.pop(identifier)
            return [Incoming(identifier, site, error="malformed")]

    def _message(self, message: Outgoing, node: int) -> Message:
        records = RecordDict({RECORD: ConfigRecord({HEADER: message.header, SITE: message.site})})
        if message.body:
            array = Array(
                dtype="uint8",
                shape=(len(message.body),),
                stype="fedprint.raw",
                data=message.body,
            )
            records[BODY] = ArrayRecord(array_dict={BODY: array})
        if message.action != "train":
            raise OurMistake(f"Nodes know no action {message.action!r}.")
        return Message(records, dst_node_id=node, message_type="train", ttl=self.ttl_s)

    def _incoming(self, reply: Message) -> Incoming:
        identifier = reply.metadata.reply_to_message_id
        site, node = self._asked.pop(identifier)
        if reply.has_error():
            return Incoming(identifier, site, error=_WORDS.get(reply.error.code, "failed"))
        if reply.metadata.src_node_id != node:
            return Incoming(identifier, site, error="misrouted")
        header = reply.content.config_records.get(RECORD, ConfigRecord()).get(HEADER, b"")
        array = reply.content.array_records.get(BODY, ArrayRecord()).get(BODY)
        return Incoming(
            identifier,
            site,
            header if isinstance(header, bytes) else b"",
            b"" if array is None else array.data,
        )
