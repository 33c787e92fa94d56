"""Where the coordinator keeps its things. One folder, one owner, mode 0700."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CoordinatorHome:
    """Paths below the coordinator's folder.

    `--home`, else FEDPRINT_COORDINATOR_HOME, else ~/.fedprint/coordinator.
    """

    root: Path

    @classmethod
    def find(cls, home: Path | None = None) -> CoordinatorHome:
        chosen = home or Path(
            os.environ.get("FEDPRINT_COORDINATOR_HOME", "~/.fedprint/coordinator")
        )
        return cls(chosen.expanduser().absolute())

    def make(self) -> None:
        """Create the folder, for its owner only."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def config(self) -> Path:
        """coordinator.toml: the address that hospitals reach."""
        return self.root / "coordinator.toml"

    @property
    def run_key(self) -> Path:
        """Ed25519 key that signs requests to nodes."""
        return self.root / "keys" / "run.pem"

    @property
    def release_key(self) -> Path:
        """Ed25519 key that signs releases; may live elsewhere (on a token, offline)."""
        return self.root / "keys" / "release.pem"

    @property
    def ca_key(self) -> Path:
        return self.root / "tls" / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        return self.root / "tls" / "ca.pem"

    @property
    def server_key(self) -> Path:
        return self.root / "tls" / "server.key"

    @property
    def server_certificate(self) -> Path:
        return self.root / "tls" / "server.pem"

    @property
    def sites(self) -> Path:
        """One SITE.json for each enrolled hospital."""
        return self.root / "sites"

    @property
    def root_public(self) -> Path:
        """root.json: the consortium's public root key. The key itself is on another machine."""
        return self.root / "root.json"

    @property
    def roster(self) -> Path:
        """roster.json: the newest roster that the root signed, with countersignatures."""
        return self.root / "roster.json"

    @property
    def ledgers(self) -> Path:
        """What is held of the hospitals' privacy ledgers."""
        return self.root / "ledgers"

    @property
    def rosters(self) -> Path:
        """Every roster ever imported, one file a version."""
        return self.root / "rosters"

    @property
    def runs(self) -> Path:
        """One folder for each run: checkpoints, journal."""
        return self.root / "runs"

    def run_folder(self, run: str) -> Path:
        return self.runs / run

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def flower(self) -> Path:
        """Flower's own files: SuperLink database, FLWR_HOME."""
        return self.root / "flower"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def registry_book(self) -> Path:
        """registry.sqlite: tokens, certificates, waiting cards and mail of the registry."""
        return self.root / "registry.sqlite"

    @property
    def registry_lock(self) -> Path:
        """Held by the one running registry of this home."""
        return self.root / "registry.lock"

    @property
    def restored(self) -> Path:
        """There after a restore, until the operator has read which certificates are valid again."""
        return self.root / "restored"

    @property
    def release_archives(self) -> Path:
        """Packed releases, named by digest, as the registry streams them; may be deleted."""
        return self.root / "release-archives"

    @property
    def service_lock(self) -> Path:
        """Held by `fedprint-coordinator serve`."""
        return self.root / "service.lock"

    @property
    def metrics_token(self) -> Path:
        """What a monitor shows as bearer token to read /metrics."""
        return self.root / "metrics.token"

    @property
    def lock(self) -> Path:
        """Held by the one running coordinator of this home."""
        return self.root / "coordinator.lock"
