"""Releases over the registry: resumed where they stopped, checked by digest, cut when stalled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from registry_stand_ins import Served, coordinator_at, served, write_a_release

from client import registry_releases
from client.home import NodeHome
from client.registry_client import Unreachable
from server import registry_enrolment
from server.registry_limits import RegistryLimits
from shared_model import canonical, registry
from shared_model.errors import PeerFault, Refused
from shared_model.registry import Ask, Health

SIZE = 8 * 2**20


@pytest.fixture
def released(tmp_path: Path) -> Iterator[tuple[Served, NodeHome]]:
    """A registry with one release of 8 MiB and a hospital that may fetch it."""
    home = coordinator_at(tmp_path)
    write_a_release(home, 1, SIZE)
    limits = RegistryLimits(requests_per_s=1e6, burst=10**6, stall_s=1.0)
    with served(home, limits) as service:
        yield service, service.joined(tmp_path / "alpha", "alpha")


def no_pause(_: float) -> None:
    return None


def test_a_release_is_fetched_to_the_byte(released: tuple[Served, NodeHome]) -> None:
    service, node = released
    seen: list[int] = []
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        path = registry_releases.fetch(node, session, entry, on_bytes=seen.append, pause=no_pause)
        again = registry_releases.fetch(node, session, entry, on_bytes=seen.append, pause=no_pause)
    assert path == again
    assert canonical.digest(path.read_bytes()) == entry.sha256
    assert seen == sorted(seen)
    assert list(node.inbox.glob("*.part")) == []


def test_a_restart_of_the_registry_in_the_middle_is_resumed_not_repeated(
    released: tuple[Served, NodeHome],
) -> None:
    service, node = released
    asked: list[int] = []
    stopped = threading.Event()
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        pieces = session.pieces

        def watched(digest: str, offset: int) -> Iterator[bytes]:
            asked.append(offset)
            for piece in pieces(digest, offset):
                yield piece
                if not stopped.is_set():
                    stopped.set()
                    service.stop()

        def restart(_: float) -> None:
            if not service._thread.is_alive():
                service.start(service.port)

        session.pieces = watched  # type: ignore[method-assign]
        path = registry_releases.fetch(node, session, entry, on_bytes=lambda _: None, pause=restart)
    assert canonical.digest(path.read_bytes()) == entry.sha256
    assert asked[0] == 0
    assert len(asked) >= 2
    assert all(later > 0 for later in asked[1:])


def test_a_part_from_an_earlier_command_is_gone_on_with(
    released: tuple[Served, NodeHome],
) -> None:
    service, node = released
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        node.inbox.mkdir()
        archive = next(service.home.release_archives.iterdir()).read_bytes()
        part = node.inbox / f"release-1-{entry.sha256[:16]}.part"
        part.write_bytes(archive[:1_000_003])
        seen: list[int] = []
        registry_releases.fetch(node, session, entry, on_bytes=seen.append, pause=no_pause)
    assert seen[0] > 1_000_003
    assert seen[0] <= 1_000_003 + service.limits.piece_bytes


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_release_with_another_digest_is_removed_and_refused(
    released: tuple[Served, NodeHome], where: str
) -> None:
    """Bytes changed on this disk, or by the registry."""
    service, node = released
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        if where == "here":
            node.inbox.mkdir()
            (node.inbox / f"release-1-{entry.sha256[:16]}.part").write_bytes(b"another")
        else:
            path = next(service.home.release_archives.iterdir())
            data = bytearray(path.read_bytes())
            data[SIZE // 2] ^= 1
            path.write_bytes(data)
        with pytest.raises(PeerFault, match="not the release"):
            registry_releases.fetch(node, session, entry, on_bytes=lambda _: None, pause=no_pause)
    assert list(node.inbox.iterdir()) == []


def test_a_registry_that_sends_more_than_it_listed_is_stopped(
    released: tuple[Served, NodeHome],
) -> None:
    service, node = released
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        short = entry.model_copy(update={"size_bytes": SIZE // 2})
        with pytest.raises(PeerFault, match="more than it listed"):
            registry_releases.fetch(node, session, short, on_bytes=lambda _: None, pause=no_pause)


def test_a_line_that_stays_down_is_given_up_with_what_is_here_kept(
    released: tuple[Served, NodeHome],
) -> None:
    service, node = released
    pauses: list[float] = []
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)

        def dead(digest: str, offset: int) -> Iterator[bytes]:
            if offset == 0:
                yield b"12345"
            raise Unreachable("down", site="coordinator")

        session.pieces = dead  # type: ignore[method-assign]
        with pytest.raises(Unreachable):
            registry_releases.fetch(
                node, session, entry, on_bytes=lambda _: None, pause=pauses.append
            )
    assert len(pauses) == registry_releases.ATTEMPTS
    assert max(pauses) == registry_releases.LONGEST_PAUSE_S
    assert next(node.inbox.glob("*.part")).read_bytes() == b"12345"


def test_a_reader_that_takes_nothing_is_cut_off_and_others_are_served(
    released: tuple[Served, NodeHome], tmp_path: Path
) -> None:
    service, node = released
    other = service.joined(tmp_path / "beta", "beta")
    with service.session(node) as session, service.session(other) as fast:
        (entry,) = registry_releases.listed(session)
        slow = session._channel.unary_stream(f"/{registry.SERVICE}/Fetch")(
            registry.Fetch(sha256=entry.sha256, offset=0).to_bytes(), timeout=60
        )
        next(slow)  # and then no more
        path = registry_releases.fetch(other, fast, entry, on_bytes=lambda _: None, pause=no_pause)
        assert canonical.digest(path.read_bytes()) == entry.sha256
        while not any("stalled" in record.getMessage() for record in service.records):
            fast.call("Health", Ask(), Health)
        with pytest.raises(grpc.RpcError) as error:
            list(slow)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_revoked_hospital_gets_no_further_piece(released: tuple[Served, NodeHome]) -> None:
    service, node = released
    with service.session(node) as session:
        (entry,) = registry_releases.listed(session)
        pieces = session.pieces(entry.sha256, 0)
        got = [next(pieces)]
        with service.book() as counter:
            registry_enrolment.revoke(service.home, counter.book, "alpha")
        with pytest.raises(Refused, match="revoked"):
            got.extend(pieces)
        assert sum(map(len, got)) < entry.size_bytes
        with pytest.raises(Refused, match="revoked"):
            session.call("Health", Ask(), Health)
