"""What our SuperLink does otherwise than Flower's, so that an outage costs no site its round.

Flower's SuperLink takes a node that it has not heard of for 60 s for lost: it answers the
coordinator in its place, and the node's own answer, finished since, is thrown away while the node
is told that all went well. Here, in the process of the SuperLink:

- a node that is away is away: nobody answers for it. A node that is taken off the roster is gone;
- an upload that was cut stays as far as it came, as long as its message counts;
- a message of which the node has not said that it has all of it is handed out again when the node
  asks (it asks for the next only when it is done with one, so the first answer was lost);
- a reply is given to the coordinator when it is here whole; Flower gives it away, and forgets it,
  when its upload has begun;
- a node whose process was killed may connect at once, not after 60 s; and `last_activated_at` is
  when its process began, not when its line came back.

`install` refuses a Flower whose functions are not the ones that this was written against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message
from flwr.server.superlink.linkstate import sql_linkstate
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.server.superlink.linkstate.utils import check_node_availability_for_in_message
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import exists, select, update

from shared_model import known_source

ALWAYS = 1e300
"""Seconds since 1970 until which a node that is away counts as one that may still answer."""

KNOWN: Mapping[Callable[..., Any], str] = {
    check_node_availability_for_in_message: "7da2db99a2025c49",
    SqlLinkState.get_message_ins: "4299efc545e677d7",
    SqlLinkState._claim_message_ins_rows: "cd74f93ce469fc83",
    SqlLinkState.store_message_and_object_tree: "1fd5d65c086f3d6b",
    SqlLinkState.store_message_res: "0d5ff7f4f292b8c2",
    SqlLinkState.get_message_res: "5c1b460981b4e8d0",
    SqlLinkState.activate_node: "a06be1bac7e13f41",
    SqlLinkState.deactivate_node: "c3ad2ab2beb46a78",
    SqlLinkState.acknowledge_node_heartbeat: "922e5841c8166642",
    SqlCoreState.start_session: "1921ed72bdf87baf",
    SqlCoreState.store_object: "903590e226814f4a",
    SqlCoreState.get_object: "6fca12d9ec588533",
}
"""The functions of Flower that are replaced here, or that what is replaced relies on."""

_flower_messages = SqlLinkState.get_message_ins
_flower_replies = SqlLinkState.get_message_res
_flower_activate = SqlLinkState.activate_node
_flower_heartbeat = SqlLinkState.acknowledge_node_heartbeat


def install(kept_s: float) -> None:
    """Put our functions into Flower's classes; in the process of the SuperLink, before it starts.

    Args:
        kept_s: how long an unfinished upload is kept.

    Raises:
        OurMistake: another Flower.
    """
    known_source.check(KNOWN, "Flower")
    vars(sql_linkstate)["check_node_availability_for_in_message"] = _only_those_that_are_gone
    vars(sql_corestate)["OBJECT_PUSH_SESSION_TTL_SECONDS"] = kept_s
    for name, ours in _OURS.items():
        setattr(SqlLinkState, name, ours)


def _only_those_that_are_gone(
    inquired_in_message_ids: set[str],
    found_in_message_dict: dict[str, Message],
    node_id_to_online_until: dict[int, float],
    current_time: float | None = None,
    update_set: bool = True,
) -> dict[str, Message]:
    """An answer in place of nodes that are off the roster; none for those that are away."""
    return check_node_availability_for_in_message(
        inquired_in_message_ids,
        found_in_message_dict,
        dict.fromkeys(node_id_to_online_until, ALWAYS),
        current_time,
        update_set,
    )


def _messages(
    self: SqlLinkState, node_id: int, limit: int | None, *, run_id: int | None = None
) -> list[Message]:
    """Hand out again what this node was given and does not have."""
    with self.session() as session:
        answered = exists().where(MessageRes.reply_to_message_id == MessageIns.message_id)
        given = session.scalars(
            select(MessageIns.message_id).where(
                MessageIns.dst_node_id == uint64_to_int64(node_id),
                MessageIns.delivered_at != "",
                ~answered,
            )
        ).all()
        # a message's own object goes when the node has said that it has everything
        lost = [item for item in given if item is not None and item in self.object_store]
        if lost:
            session.execute(
                update(MessageIns).where(MessageIns.message_id.in_(lost)).values(delivered_at="")
            )
        return _flower_messages(self, node_id, limit, run_id=run_id)


def _replies(self: SqlLinkState, message_ids: set[str], run_id: int) -> list[Message]:
    """Only replies that are here whole: who is given one, its upload is forgotten."""
    with self.session() as session:
        # SQLite's transaction begins with the first write: without one, an upload that begins
        # between the look below and Flower's taking of replies would be given away
        session.execute(
            update(MessageRes).where(MessageRes.message_id == "").values(delivered_at="")
        )
        uploading = session.scalars(
            select(MessageRes.reply_to_message_id)
            .join(
                ObjectPushSessionRoot,
                ObjectPushSessionRoot.root_object_id == MessageRes.message_id,
            )
            .join(
                ObjectPushSession,
                ObjectPushSession.session_id == ObjectPushSessionRoot.session_id,
            )
            .where(
                MessageRes.reply_to_message_id.in_(message_ids),
                ObjectPushSession.pending_count > 0,
            )
        ).all()
        return _flower_replies(self, message_ids - set(uploading), run_id)


def _activate(self: SqlLinkState, node_id: int, heartbeat_interval: float) -> bool:
    """Take a node that begins anew, also one that was never seen to end."""
    with self.session():
        self.deactivate_node(node_id)
        return _flower_activate(self, node_id, heartbeat_interval)


def _heartbeat(self: SqlLinkState, node_id: int, heartbeat_interval: float) -> bool:
    """Leave `last_activated_at` as it is."""
    this = Node.node_id == uint64_to_int64(node_id)
    with self.session() as session:
        began = session.scalar(select(Node.last_activated_at).where(this))
        known = _flower_heartbeat(self, node_id, heartbeat_interval)
        if known and began is not None:
            session.execute(update(Node).where(this).values(last_activated_at=began))
        return known


_OURS: Mapping[str, Callable[..., Any]] = {
    "get_message_ins": _messages,
    "get_message_res": _replies,
    "activate_node": _activate,
    "acknowledge_node_heartbeat": _heartbeat,
}
