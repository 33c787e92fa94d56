"""The ledgers that a release's replies carry, exported and held against it: one real release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from release_stand_ins import DAY, Story, key_of, public

from auditor.ledger_audit import LedgerAudit, audit_ledgers
from server.release import Made
from shared_model import accounting, ledger_export, protocol_open
from shared_model.protocol import TrainReply
from shared_model.release_checks import verify
from shared_model.release_files import read_release
from shared_model.release_signed import Release

Maker = Callable[..., Made]


def released(make: Maker, tmp_path: Path, story: Story) -> Release:
    """Made, read and verified."""
    folder = tmp_path / "made"
    make(story, output=folder)
    return verify(read_release(folder), public("release"))


def exported(release: Release, site: str, rounds: int = 99) -> bytes:
    """The site's ledger as its replies carried it, up to a round."""
    lines: list[bytes] = []
    for signed in release.evidence.rounds[:rounds]:
        for header in signed.replies:
            data = bytes.fromhex(header)
            if protocol_open.readable(data)["site"] == site:
                reply = protocol_open.open_answer(data, public(site), site=site)
                assert isinstance(reply, TrainReply)
                lines += [line.encode() for line in reply.ledger.entries]
    export = ledger_export.build(
        site=site,
        created=DAY,
        software="fedprint test",
        code_digest="0" * 64,
        lines=lines,
        rosters=[bytes.fromhex(one) for one in release.evidence.rosters],
        witnessed={},
        countersigned=[],
        releases=[release.manifest.digest],
    )
    return ledger_export.seal(export, key_of(site))


def audit(release: Release, files: dict[str, bytes]) -> LedgerAudit:
    return audit_ledgers(
        files,
        public("root"),
        accountants=(accounting.epsilon_pld, accounting.epsilon_prv),
        release=release,
    )


def test_exported_ledgers_and_a_release_tell_the_same(make: Maker, tmp_path: Path) -> None:
    release = released(make, tmp_path, Story(closed=(2,)))
    files = {site: exported(release, site) for site in ("alpha", "beta", "gamma")}
    found = audit(release, files)
    assert [item for item in found.findings if item.verdict == "FAILED"] == []
    told = {item.check: item for item in found.findings}
    for site in files:
        assert told[f"{site}: release"].verdict == "OK"
        assert "all 3 replies" in told[f"{site}: release"].detail


@pytest.mark.parametrize("kept", [1, 2])
def test_a_ledger_that_stops_before_the_release_does_is_found(
    make: Maker, tmp_path: Path, kept: int
) -> None:
    release = released(make, tmp_path, Story())
    found = audit(release, {"alpha": exported(release, "alpha", kept)})
    assert found.verdict == "FAILED"
    (first, *_) = [item for item in found.findings if item.verdict == "FAILED"]
    assert f"round {kept + 1} of run spring is in the release and not booked" in first.detail
