"""Checks of the node's folder: settings, policy, keys, ledger, roster, approvals, store, code."""

from __future__ import annotations

import datetime
import os

from client import keys, registry_client, withdrawals
from client.home import NodeHome
from client.policy import Policy, installed_code
from client.rosters import RosterBook
from client.settings import settings_of
from shared_model import machine
from shared_model.findings import Finding, attention, broken, ok, printable
from shared_model.machine_checks import check_days, check_rights
from shared_model.signing import load_key_file

ROSTER_SOON_DAYS = 30.0
CERTIFICATE_SOON_DAYS = 30.0
_SECRET = (
    "keys",
    "never-back-up",
    "never-back-up/epoch.json",
    "ledger.sqlite",
    "registry/client.pem",
)


def check_settings(home: NodeHome) -> Finding:
    """node.toml parses."""
    settings = settings_of(home)
    hours = str(settings.training.hours) if settings.training.hours else "always"
    return ok("node.toml", f"site {settings.site}, trains {hours}")


def check_policy(home: NodeHome) -> Finding:
    """policy.toml parses and declares what was enrolled."""
    policy = Policy.from_file(home.policy)
    if policy.declared_patients != settings_of(home).declared_patients:
        return broken(
            "policy.toml",
            "declares another number of patients than node.toml",
            "Make declared_patients in policy.toml the number that was enrolled.",
        )
    return ok("policy.toml", "can be read; its limits hold together")


def check_files(home: NodeHome) -> Finding:
    """Folder 0700, keys 0600, one owner."""
    below = [home.root / name for name in _SECRET]
    folder = home.identity_key.parent
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        below += sorted(folder.iterdir())
    return check_rights(str(home.root), machine.rights_of(home.root, below), os.geteuid())


def check_keys(home: NodeHome) -> Finding:
    """Identity and node key can be read and are the enrolled card's."""
    card = keys.card(home)
    return ok("keys", f"key of {card.site}: {card.words_key}")


def check_restored(home: NodeHome) -> Finding:
    """Nothing was put back from a backup without saying so."""
    from client.node_parts import outbox_of

    if outbox_of(home).was_rolled_back():
        return broken(
            "restored",
            "this folder was restored from a backup: it does not know all that it has signed",
            "Run: fedprint-node restored, then docs/ledger.md, Recover.",
        )
    return ok("restored", "this folder is as this node left it")


def check_ledger(home: NodeHome) -> Finding:
    """Every entry is signed and chained, and the ledger is the newest that this node knows of."""
    from client.ledger_store import LedgerStore

    with LedgerStore.open(home, settings_of(home).site, load_key_file(home.identity_key)) as store:
        return ok("ledger", f"{store.chain.length} entries, whole and current")


def check_roster(home: NodeHome, today: datetime.date) -> Finding:
    """A roster is approved and valid, for a while yet; none waits."""
    book = RosterBook(home)
    approved, pending = book.approved(), book.pending()
    if approved is None:
        return broken(
            "roster",
            "none is approved",
            "Run: fedprint-node roster fetch, then fedprint-node roster approve",
        )
    roster = approved.roster
    words = f"version {roster.version}, {len(roster.sites)} hospitals"
    if roster.valid_from > today.isoformat():
        return broken("roster", f"{words}, valid from {roster.valid_from} on", "Check the date.")
    left = datetime.date.fromisoformat(roster.valid_until) - today
    age = (today - datetime.date.fromisoformat(roster.valid_from)).days
    found = check_days(
        "roster",
        left / datetime.timedelta(days=1),
        soon=ROSTER_SOON_DAYS,
        do="Ask the operator for the next roster: the root signs it (docs/root-key.md).",
    )
    found = Finding("roster", found.state, f"{words}, {age} days old, {found.found}", found.do)
    if pending is not None and found.state == "ok":
        return attention(
            "roster",
            f"{found.found}; version {pending.roster.version} waits",
            "Read it and decide: fedprint-node roster approve",
        )
    return found


def check_runs(home: NodeHome) -> Finding:
    """Whether runs wait for the operator."""
    from client.approvals import RunFiles

    waiting = len(RunFiles(home).of("pending"))
    if waiting:
        return attention(
            "approvals", f"{waiting} wait for you", "Read and decide: fedprint-node run list"
        )
    return ok("approvals", "none waits")


def check_store(home: NodeHome) -> Finding:
    """The window store can be opened with its key; nothing of what is in it is told."""
    from client.store import is_encrypted, withdrawals_are_known
    from client.store_key import credential_is_given, key_of

    if withdrawals.are_unknown(home):
        return _restored(home)
    if not (home.store / "manifest.json").is_file():
        if withdrawals.noted(home) > 0:
            return _restored(home)
        return attention("store", "no recordings yet", "Run: fedprint-node data add FOLDER")
    sealed = is_encrypted(home.store)
    if sealed and key_of(home) is None and not credential_is_given():
        return attention(
            "store",
            "encrypted, and this command has no key: systemd gives it to the service only",
            "If no unit has LoadCredential: name the key under [store] in node.toml.",
        )
    if not withdrawals_are_known(home):
        return _restored(home)
    if home.nothing_added.exists():
        return attention("store", "only withdrawals", "Run: fedprint-node data add FOLDER")
    told = former_names(home)
    if told:
        return attention("store", *told)
    return ok("store", f"{'encrypted' if sealed else 'not encrypted'}, can be read")


def _restored(home: NodeHome) -> Finding:
    do = withdrawals.DO
    if former_names(home):  # the question of one answers the other's
        do = withdrawals.DO_FORMER
    return broken(
        "store",
        "restored from a backup: who has withdrawn since would be in it again; nothing trains",
        do,
    )


def former_names(home: NodeHome) -> tuple[str, str] | None:
    """That patients in the store, or withdrawals, are named by the rule of an earlier version, and
    what to do; None: they are not, or nobody here has the key to see it."""
    from client.store import read_manifest
    from client.store_key import key_of
    from shared_model.errors import OurMistake, Refused

    try:
        manifest, _ = read_manifest(home.store, key_of(home))
    except (OurMistake, Refused):
        return None
    if manifest.former:
        return (
            "named by an earlier version: nothing can be added, and labels of now may miss some",
            "Run: fedprint-node data remove --all. Then add each folder again.",
        )
    if manifest.named_anew().withdrawn_before:
        return (
            "withdrawals of an earlier version, which spelled some identifiers otherwise",
            "Withdraw each patient again, then: fedprint-node data add FOLDER --withdrawals-hold",
        )
    return None


def check_store_key(home: NodeHome) -> Finding:
    """The key that is configured can be used; its content is never looked at further."""
    from client.store_key import key_of

    key = key_of(home)
    if key is not None:
        return ok("store key", f"from {printable(key.source, 200)}")
    return attention(
        "store key",
        "none is configured here",
        "Encrypt the windows: fedprint-node data encrypt (docs/hospital-it.md), or the disk.",
    )


def check_certificate(home: NodeHome, now: datetime.datetime) -> Finding:
    """This node's certificate at the registry."""
    if not registry_client.has_joined(home):
        return ok("own certificate", "none: joined by files")
    left = registry_client.expires(home) - now
    return check_days(
        "own certificate",
        left / datetime.timedelta(days=1),
        soon=CERTIFICATE_SOON_DAYS,
        do="Run: fedprint-node registry renew; if it has ended, ask the operator for a new token.",
    )


def check_code(home: NodeHome) -> Finding:
    """What is installed here is what was approved, or is listed in policy.toml."""
    code, allowed = installed_code(), Policy.from_file(home.policy).allowed_code_digests
    if allowed and code not in allowed:
        return broken(
            "code",
            f"the installed code, {code[:16]}..., is not approved: nothing is trained",
            f"Read what changed and decide: fedprint-node approve {code}",
        )
    words = "approved" if allowed else "any code is allowed: nothing was ever approved here"
    return ok("code", f"{code[:16]}..., {words}")
