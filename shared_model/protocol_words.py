"""Closed sets of words of the protocol: why a site refuses, and the phases of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

RefusalReason = Literal[
    "signature",  # not signed by the pinned run key, or not a message at all
    "version",  # another protocol or package version
    "roster",  # this site is not asked, or its declared number of patients is another one
    "contributors",  # fewer participants or a lower minimum than the node's policy asks for
    "secure-sum",  # masks off, other sum parameters than this node computes, or a sum gone wrong
    "threshold",  # too few hospitals, too low a threshold or collusion bound
    "roster-approval",  # the node's operator has not approved this roster
    "run-approval",  # the node's operator has not approved this run's plan, or not so many rounds
    "ledger",  # a privacy ledger, this site's or a peer's, is not the one that was seen before
    "epoch",  # no key of this epoch here: a new epoch is needed
    "late",  # a later step of this run was taken already
    "policy",  # the plan crosses another limit of the node's policy
    "model",  # unknown preset, another configuration, weights that do not fit or are far too large
    "budget",  # the round would cross the privacy budget
    "conflict",  # another request for this round was answered already, or the round is past
    "interrupted",  # this request was begun, not finished, and cannot be taken up again
    "not-ready",  # the node has nothing to train on
    "internal",  # a fault at the node; its operator reads why in the node's own log
]

Phase = Literal[
    "waiting", "keying", "preparing", "submit", "agree", "open", "aggregating", "finished", "paused"
]
_SUBMIT: frozenset[Phase] = frozenset({"submit", "agree", "aggregating", "waiting", "paused"})
_AGREE: frozenset[Phase] = frozenset({"agree", "open", "waiting", "paused"})
_OPEN: frozenset[Phase] = frozenset({"open", "waiting", "paused"})
_KEYING: frozenset[Phase] = frozenset({"keying", "waiting"})
TRANSITIONS: Mapping[Phase, Mapping[str, frozenset[Phase]]] = {
    "waiting": {
        "SitesSeen": frozenset({"waiting", "keying", "preparing", "paused"}),
    },
    "keying": {
        "KeyArrived": _KEYING,
        "RefusalArrived": _KEYING,
        "FaultyReply": _KEYING,
        "SiteLost": _KEYING,
        "DeadlinePassed": _KEYING,
    },
    "preparing": {
        "RoundOpened": frozenset({"submit", "agree"}),
    },
    "submit": {
        "ReplyArrived": _SUBMIT,
        "RefusalArrived": _SUBMIT,
        "FaultyReply": _SUBMIT,
        "SiteLost": _SUBMIT,
        "DeadlinePassed": _SUBMIT,
    },
    "agree": {
        "AgreementArrived": _AGREE,
        "RefusalArrived": _AGREE,
        "FaultyReply": _AGREE,
        "SiteLost": _AGREE,
        "DeadlinePassed": _AGREE,
    },
    "open": {
        "SharesArrived": frozenset({"open", "aggregating", "waiting", "paused"}),
        "AgreementArrived": _OPEN,
        "RefusalArrived": _OPEN,
        "FaultyReply": _OPEN,
        "SiteLost": _OPEN,
        "DeadlinePassed": _OPEN,
    },
    "aggregating": {
        "Aggregated": frozenset({"waiting", "finished"}),
        "NotOpened": frozenset({"waiting", "paused"}),
    },
    "paused": {
        "Resumed": frozenset({"waiting"}),
    },
    "finished": {},
}
"""Legal transitions of a run: phase -> event -> phases it may lead to. Only rounds whose masks are
off (simulations) go from "submit" to "aggregating". Once a round is in "agree" it ends in an
aggregate or is closed for good; it never returns to "submit". A stored round whose survivors are
stored goes from "preparing" to "agree"; who agrees late, in "open", still opens. Messages that come
in a phase that does not list them change no phase; they are ignored or counted."""
