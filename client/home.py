"""Where a node keeps its things. One folder, one owner, mode 0700."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodeHome:
    """Paths below the node's folder (`--home`, else FEDPRINT_NODE_HOME, else ~/.fedprint/node)."""

    root: Path

    @classmethod
    def find(cls, home: Path | None = None) -> NodeHome:
        chosen = home or Path(os.environ.get("FEDPRINT_NODE_HOME", "~/.fedprint/node"))
        return cls(chosen.expanduser().absolute())

    def command(self, *words: str) -> str:
        """A call of fedprint-node on this folder, quoted for a shell."""
        here = self == NodeHome.find()
        return shlex.join(["fedprint-node", *words, *(() if here else ("--home", str(self.root)))])

    def make(self) -> None:
        """Create the folder, for its owner only."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def config(self) -> Path:
        """node.toml: site name, declared number of patients, coordinator."""
        return self.root / "node.toml"

    @property
    def policy(self) -> Path:
        """policy.toml: what the hospital allows."""
        return self.root / "policy.toml"

    @property
    def withdrawals_unknown(self) -> Path:
        """There after a restore: who has withdrawn since the backup is not known."""
        return self.root / "withdrawals-not-known"

    @property
    def nothing_added(self) -> Path:
        """There while the window store holds withdrawals and never held a recording."""
        return self.root / "nothing-added-yet"

    @property
    def identity_key(self) -> Path:
        return self.root / "keys" / "identity.pem"

    @property
    def supernode_key(self) -> Path:
        """Flower node authentication key (EC P-384, PEM)."""
        return self.root / "keys" / "supernode.pem"

    @property
    def pseudonym_key(self) -> Path:
        """32 secret bytes that turn patient identifiers into pseudonyms."""
        return self.root / "keys" / "pseudonym.key"

    @property
    def coordinator(self) -> Path:
        """coordinator.json: pinned address, CA certificate and signing keys of the coordinator."""
        return self.root / "coordinator.json"

    @property
    def registry(self) -> Path:
        """Where the registry is, and the TLS key and certificate that it knows this node by."""
        return self.root / "registry"

    @property
    def next_identity_key(self) -> Path:
        """The identity key after the present one, while a rotation is under way."""
        return self.root / "keys" / "identity-next.pem"

    @property
    def roster(self) -> Path:
        """roster.json: the signed roster that this hospital has approved."""
        return self.root / "roster.json"

    @property
    def rosters(self) -> Path:
        """Every signed roster that this hospital ever approved."""
        return self.root / "rosters"

    @property
    def pending_roster(self) -> Path:
        """The signed roster that waits for this hospital's approval."""
        return self.root / "pending_roster.json"

    @property
    def seen_roster(self) -> Path:
        """Root key, version and digest of the highest roster ever seen."""
        return self.root / "roster_seen.json"

    @property
    def epochs(self) -> Path:
        """epochs.json: the last epoch's number."""
        return self.root / "epochs.json"

    @property
    def never_back_up(self) -> Path:
        """What must not outlive a restore: the epoch's key. Back-ups leave this folder out."""
        return self.root / "never-back-up"

    @property
    def ledger(self) -> Path:
        """ledger.sqlite: every private round ever booked, signed and chained."""
        return self.root / "ledger.sqlite"

    @property
    def ledger_marker(self) -> Path:
        """ledger.marker: how long the ledger was after the last commit, and its head."""
        return self.root / "ledger.marker"

    @property
    def ledger_note(self) -> Path:
        """The same, where no back-up brings an old one back."""
        return self.never_back_up / "ledger"

    @property
    def ledger_question(self) -> Path:
        """The last question to the other hospitals about this ledger: only its answers count."""
        return self.never_back_up / "ledger-question"

    @property
    def recoveries(self) -> Path:
        """Questions and answers by which the ledger was recovered."""
        return self.root / "recoveries"

    @property
    def store(self) -> Path:
        """Window store: catalogue and memory-mapped windows."""
        return self.root / "store"

    @property
    def spend(self) -> Path:
        """spend.sqlite: what versions before the ledger booked; see `ledger import-spend`."""
        return self.root / "spend.sqlite"

    @property
    def runs(self) -> Path:
        """Plans of runs: pending, approved, refused."""
        return self.root / "runs"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def personal(self) -> Path:
        """Personal heads, made of this hospital's labels; never sent. See `client.personal`."""
        return self.root / "personal"

    @property
    def drift(self) -> Path:
        """The reference of the drift check; never sent. See `client.drift_files`."""
        return self.root / "drift"

    @property
    def inbox(self) -> Path:
        """Releases and mail as fetched from the registry; nothing here is verified or installed."""
        return self.root / "inbox"

    @property
    def state(self) -> Path:
        """What the node does now; see `client.state`."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        return self.root / "logs"
