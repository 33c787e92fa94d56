"""Flower's Grid as the coordinator's `Transport`: addresses, bytes and one word for each error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import ERROR, INFO

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from server.runtime_grid import PatientGrid
from server.transport import Incoming, Outgoing
from shared_model.errors import OurMistake
from shared_model.pieces import SMALLEST_DOWN_BYTES, piece_bytes

RECORD = "fedprint"
HEADER = "header"
BODY = "body"
LOOK_S = 2.0
"""How often to look whether the process of a node has begun anew and lost what it was asked."""
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


@dataclass(frozen=True)
class _Asked:
    """began: when the node's process had begun that the message was sent to."""

    site: str
    node: int
    began: str


@dataclass
class GridTransport:
    """Implements `server.transport.Transport`.

    Args:
        ttl_s: how long Flower keeps a message and its reply; at least the round's deadline.
    """

    grid: Grid
    directory: Directory
    ttl_s: float
    clock: Callable[[], float] = time.monotonic
    _asked: dict[str, _Asked] = field(default_factory=dict, repr=False)
    _began: dict[int, str] = field(default_factory=dict, repr=False)
    _looked: float = field(default=0.0, repr=False)

    def sites(self) -> Mapping[str, int]:
        """Site -> Flower's node id, of the nodes that are online."""
        nodes = list(self.grid.get_nodes())
        self._began = {node.node_id: node.last_activated_at for node in nodes}
        return self.directory(nodes)

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
                node = online[site]
                self._asked[identifier] = _Asked(site, node, self._began.get(node, ""))
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
        found = [self._incoming(reply) for reply in replies]
        return found + self._forgotten([item for item in waiting if item in self._asked])

    def _forgotten(self, waiting: Sequence[str]) -> list[Incoming]:
        """Messages that a node had taken whose process was restarted since: it knows none of them.

        What it had not taken yet, Flower will give it.
        """
        grid, now = self.grid, self.clock()
        if not isinstance(grid, PatientGrid) or not waiting or now - self._looked < LOOK_S:
            return []
        self._looked = now
        self.sites()
        lost = []
        for identifier in waiting:
            asked = self._asked[identifier]
            began = self._began.get(asked.node, asked.began)
            if began == asked.began:
                continue
            if not grid.has_taken(identifier):
                self._asked[identifier] = replace(asked, began=began)
                continue
            log(INFO, "%s has started anew and is asked again", asked.site)
            del self._asked[identifier]
            lost.append(Incoming(identifier, asked.site, error="restarted"))
        return lost

    def _pull_one(self, identifier: str) -> list[Incoming]:
        try:
            return [self._incoming(reply) for reply in self.grid.pull_messages([identifier])]
        except (httpx.HTTPError, OSError):
            raise
        except Exception:
            asked = self._asked.pop(identifier)
            return [Incoming(identifier, asked.site, error="malformed")]

    def _message(self, message: Outgoing, node: int) -> Message:
        records = RecordDict({RECORD: ConfigRecord({HEADER: message.header, SITE: message.site})})
        if message.body:
            records[BODY] = _in_pieces(message.body)
        if message.action != "train":
            raise OurMistake(f"Nodes know no action {message.action!r}.")
        return Message(records, dst_node_id=node, message_type="train", ttl=self.ttl_s)

    def _incoming(self, reply: Message) -> Incoming:
        identifier = reply.metadata.reply_to_message_id
        asked = self._asked.pop(identifier)
        site, node = asked.site, asked.node
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


def _in_pieces(body: bytes) -> ArrayRecord:
    """The body as Flower's array, in pieces that its size asks for; all of them make its digest."""
    array = Array(dtype="uint8", shape=(len(body),), stype="fedprint.raw", data=body)
    size, view = piece_bytes(len(body), SMALLEST_DOWN_BYTES), memoryview(body)
    pieces = [ArrayChunk(view[start : start + size]) for start in range(0, len(body), size)]
    array.__dict__["_chunks"] = [(piece.object_id, piece) for piece in pieces]  # see slice_array
    record = ArrayRecord()
    record[BODY] = array  # given to the constructor, it would be copied without its pieces
    return record
