"""Why the registry refuses: one word crosses the network, the sentence is at the node."""

from __future__ import annotations

from shared_model.errors import Refused

REASONS: dict[str, tuple[str, str]] = {
    "malformed": (
        "The registry could not read this node's message.",
        "Both sides must run versions of fedprint that fit: compare fedprint-node registry status.",
    ),
    "unknown-certificate": (
        "The registry does not know this certificate.",
        "Ask the operator for a new token: fedprint-coordinator invite SITE -o token.json",
    ),
    "revoked": (
        "The operator has revoked this certificate or token.",
        "Telephone the operator; a new token lets this hospital join again.",
    ),
    "expired": (
        "The certificate or token has expired.",
        "Ask the operator for a new token: fedprint-coordinator invite SITE -o token.json",
    ),
    "token-only": (
        "A token is good for joining only.",
        "Run first: fedprint-node join token.json",
    ),
    "no-token": (
        "Joining needs a token.",
        "Ask the operator for one: fedprint-coordinator invite SITE -o token.json",
    ),
    "token-used": (
        "This token was used already, with other keys.",
        "If this hospital did not do that, somebody else has the token: TELEPHONE the operator, "
        "who runs: fedprint-coordinator revoke SITE",
    ),
    "other-site": (
        "The token or certificate is for another hospital.",
        "Use this hospital's own token.",
    ),
    "enrolled": (
        "This hospital, or one of these keys, is enrolled already with another card.",
        "If this hospital lost its keys, the operator makes a token with: "
        "fedprint-coordinator invite SITE --replaces -o token.json",
    ),
    "not-admitted": (
        "The operator has not admitted this hospital yet.",
        "Read the 12 words of its key to the operator by telephone (fedprint-node registry "
        "status), who then runs: fedprint-coordinator admit SITE",
    ),
    "signature": (
        "The registry could not verify this node's signature.",
        "Is this the node whose key is enrolled? fedprint-node registry status",
    ),
    "no-roster": (
        "There is no signed roster yet.",
        "The operator drafts one once all hospitals are admitted (docs/root-key.md).",
    ),
    "no-epoch": (
        "No epoch has begun.",
        "There is one once a run has begun.",
    ),
    "no-release": (
        "There is no such release.",
        "See: fedprint-node releases list",
    ),
    "offset": (
        "The registry's release is shorter than what is here.",
        "Remove the .part file in releases/inbox and fetch again.",
    ),
    "no-mail": ("There is no such file in the mailbox.", "See: fedprint-node mail list"),
    "mailbox-full": (
        "The mailbox of the receiver is full.",
        "The receiver collects its mail (fedprint-node mail fetch); then send again.",
    ),
    "no-receiver": (
        "Nobody of this name is enrolled.",
        "The names stand in the roster: fedprint-node roster show",
    ),
    "rate": ("Too many requests from this hospital.", "Wait a minute, then try again."),
    "quota": (
        "This hospital has fetched as much as it may in a day.",
        "Try again tomorrow; what was fetched is kept.",
    ),
    "stalled": ("The connection was too slow.", "Try again: it goes on where it stopped."),
    "not-ready": (
        "The coordinator is not set up.",
        "The operator runs: fedprint-coordinator init --root root.json",
    ),
    "internal": ("The registry has a fault.", "Tell the operator, whose registry.log says more."),
}
"""Every reason that the registry may give: what a node says, and what to do. A closed list."""


def refusal(reason: str) -> Refused:
    """The sentence for a reason; an unknown one counts as "internal"."""
    known = reason if reason in REASONS else "internal"
    message, do = REASONS[known]
    return Refused(message, reason=known, do=do)
