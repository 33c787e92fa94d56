"""fedprint-node registry ledgers, registry epoch: what the registry shows of other hospitals,
verified with the keys of the approved roster."""

from __future__ import annotations

from client.cli_registry_parts import AsJson, Home, now, print_lines
from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused


def show_ledgers(home: Home = None, as_json: AsJson = False) -> None:
    """Hold the ledgers' heads at the registry against what this hospital knows of them.

    Every head is verified with the keys of the approved roster. Exit code 5: one is not signed, or
    is of another ledger than the one that is known here; 3: this node's own ledger is too short.

    Example: fedprint-node registry ledgers
    """
    from client import keys, registry_client
    from client.ledger_store import LedgerStore
    from client.registry_ledgers import WORDS, compared, known_keys
    from client.rosters import RosterBook
    from shared_model import registry, signing
    from shared_model.errors import PeerFault

    place = NodeHome.find(home)
    approved = RosterBook(place).approved()
    if approved is None:
        raise OurMistake(
            "No roster is approved: whose keys these are is not known here.",
            do="Run: fedprint-node roster fetch, then fedprint-node roster approve",
        )
    identity = signing.load_key_file(place.identity_key)
    site = keys.load_config(place).site
    with registry_client.opened(place, now()) as session:
        shown = session.call("Heads", registry.Ask(), registry.Heads).heads
    with LedgerStore.open(place, site, identity, perhaps_old=True) as store:
        findings = list(
            compared(
                store.chain,
                store.peers(),
                shown,
                known_keys(RosterBook(place).ever_approved(keys.pinned(place).root)),
            )
        )
    rows = [
        {
            "site": one.site,
            "entries at the registry": one.shown,
            "entries known here": one.here,
            "verdict": one.verdict if as_json else WORDS[one.verdict],
        }
        for one in findings
    ]
    if rows or as_json:
        terminal.show("Privacy ledgers at the registry", rows, as_json=as_json)
    else:
        print_lines(["The registry holds no ledger yet: no round has been closed."])
    alarms = [one for one in findings if one.alarm]
    if any(one.verdict == "lost" for one in alarms):
        raise Refused(
            "This hospital has signed more entries than its ledger has here.",
            reason="restored",
            do='Do not start this node. See docs/ledger.md, "Recover".',
        )
    if alarms:
        raise PeerFault(
            f"The ledger of {alarms[0].site} that the registry shows cannot be right.",
            site=alarms[0].site,
            do="Telephone that hospital and the auditor; keep this output (docs/ledger.md).",
        )


def show_epoch(home: Home = None, as_json: AsJson = False) -> None:
    """Show the present epoch and which hospitals have given their key for it, verified.

    Exit code 5: a key is not signed by its hospital.

    Example: fedprint-node registry epoch
    """
    from client import registry_client
    from client.rosters import RosterBook
    from shared_model import protocol, registry, signing
    from shared_model.errors import PeerFault
    from shared_model.protocol_sum import EpochKey, epoch_key_statement

    place = NodeHome.find(home)
    approved = RosterBook(place).approved()
    with registry_client.opened(place, now()) as session:
        epoch = session.call("Epoch", registry.Ask(), registry.EpochKeys)
    if approved is None or approved.roster.digest != epoch.roster_digest:
        raise Refused(
            "The present epoch is of a roster that this hospital has not approved.",
            reason="roster-approval",
            do="Run: fedprint-node roster fetch, then fedprint-node roster approve",
        )
    roster = approved.roster
    identity = {entry.site: entry.identity for entry in roster.sites}
    for entry in epoch.keys:
        statement = epoch_key_statement(entry, epoch.epoch, epoch.roster_digest)
        try:
            signing.verify(
                identity[entry.site],
                protocol.kind_of(EpochKey),
                statement,
                bytes.fromhex(entry.signature),
            )
        except (Refused, KeyError) as error:
            raise PeerFault(
                f"The epoch key of {entry.site} is not signed by {entry.site}.",
                site=entry.site,
                do="Telephone that hospital: somebody may have exchanged its key.",
            ) from error
    given = {entry.site: entry.public_key for entry in epoch.keys}
    rows = [{"site": site, "key": given.get(site)} for site in roster.names]
    if as_json:
        terminal.print_json({"epoch": epoch.epoch, "roster": epoch.roster_digest, "keys": rows})
        return
    terminal.show(f"Keys of epoch {epoch.epoch}", rows, as_json=False)
