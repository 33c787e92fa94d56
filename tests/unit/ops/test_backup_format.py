"""The backup file: what comes back, and what a hostile one cannot do."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import backup, canonical, sealed_stream
from shared_model.backup import FileEntry, Manifest
from shared_model.backup_files import destination, files_below, placed
from shared_model.errors import OurMistake, Refused
from shared_model.sealed_stream import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, SealedReader

PASSPHRASE = "six random words in a row"


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB a guess is for attackers; one test looks at the real cost."""

    class Cheap:
        def __init__(self, salt: bytes, **_: object) -> None:
            self.salt = salt

        def derive(self, secret: bytes) -> bytes:
            return hashlib.sha256(self.salt + secret).digest()

    monkeypatch.setattr(sealed_stream, "Scrypt", Cheap)


def counted(size: int) -> bytes:
    return bytes(range(size))


def manifest_of(entries: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        of="node", name="alpha", fedprint="0.1.0", made="2026-01-01T00:00:00Z", files=entries
    )


def made(folder: Path, content: dict[str, bytes], passphrase: str | None = None) -> bytes:
    """A backup of these files."""
    listed = []
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        listed.append((name, path))
    stream = io.BytesIO()
    manifest = manifest_of(backup.entries_of(listed))
    backup.write(stream, listed, manifest, passphrase=passphrase, entropy=counted)
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


CONTENT = {"keys/a.pem": b"secret" * 20, "runs/r/0000001/x": b"", "z": bytes(200_000)}


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_what_was_backed_up_comes_back_for_its_owner_only(
    tmp_path: Path, passphrase: str | None
) -> None:
    """Same names, same bytes, 0600 and 0700."""
    data = made(tmp_path / "from", CONTENT, passphrase)
    backup.check(io.BytesIO(data), passphrase)
    backup.unpack(io.BytesIO(data), passphrase, tmp_path / "to")
    assert tree(tmp_path / "to") == CONTENT
    for path in (tmp_path / "to", *(tmp_path / "to").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_encrypted_backup_shows_neither_names_nor_content(tmp_path: Path) -> None:
    """Not even which hospital it is of."""
    data = made(tmp_path, CONTENT, PASSPHRASE)
    for word in (b"keys/a.pem", b"secret", b"alpha", b"manifest"):
        assert word not in data


def test_unencrypted_backup_is_a_tar_that_any_tool_reads(tmp_path: Path) -> None:
    """For the day when this program is gone."""
    data = made(tmp_path / "from", CONTENT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [backup.MANIFEST, *sorted(CONTENT)]


@given(st.integers(0, 300), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_no_bit_of_an_encrypted_backup_can_be_changed(place: int, bit: int) -> None:
    """Header, chunks and tags alike."""
    data = bytearray(SMALL)
    data[place * len(data) // 301] ^= 1 << bit
    with pytest.raises(Refused):
        backup.check(io.BytesIO(bytes(data)), PASSPHRASE)


def sealed(content: bytes) -> bytes:
    stream = io.BytesIO()
    writer = sealed_stream.SealedWriter(stream, PASSPHRASE, counted)
    writer.write(content)
    writer.finish()
    return stream.getvalue()


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_stream_of_any_length_comes_back(size: int) -> None:
    """At the borders of chunks, too."""
    content = bytes(i % 251 for i in range(size))
    reader = SealedReader(io.BytesIO(sealed(content)), PASSPHRASE)
    assert reader.read(size + 1) == content
    assert reader.read(1) == b""


CHUNK = CHUNK_BYTES + TAG_BYTES


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:-1],
        lambda d: d[: HEADER_BYTES + CHUNK],
        lambda d: d[: HEADER_BYTES + 2 * CHUNK],
        lambda d: d[:HEADER_BYTES],
        lambda d: d[: HEADER_BYTES - 1],
        lambda d: d + b"x",
        lambda d: d + d[HEADER_BYTES:],
        lambda d: (
            d[:HEADER_BYTES]
            + d[HEADER_BYTES + CHUNK : HEADER_BYTES + 2 * CHUNK]
            + d[HEADER_BYTES : HEADER_BYTES + CHUNK]
            + d[HEADER_BYTES + 2 * CHUNK :]
        ),
        lambda d: d[:HEADER_BYTES] + d[HEADER_BYTES + CHUNK :],
    ],
    ids=["byte", "one", "two", "none", "header", "longer", "twice", "swapped", "first-gone"],
)
def test_chunks_cannot_be_cut_off_swapped_dropped_or_added(
    change: Callable[[bytes], bytes],
) -> None:
    """The counter and the mark of the last chunk are in the nonce."""
    data = sealed(bytes(3 * CHUNK_BYTES - 5))
    with pytest.raises(Refused):
        SealedReader(io.BytesIO(change(data)), PASSPHRASE).read(10 * CHUNK_BYTES)


def test_wrong_passphrase_is_told_and_a_short_one_never_taken() -> None:
    """The first chunk says so."""
    with pytest.raises(Refused, match="passphrase is wrong"):
        SealedReader(io.BytesIO(sealed(b"x")), "another passphrase").read(1)
    with pytest.raises(OurMistake, match="12 characters"):
        sealed_stream.SealedWriter(io.BytesIO(), "short", counted)


def test_guessing_costs_what_the_version_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt 2^17, 8, 1; the file holds no parameters that somebody could lower."""
    asked: list[dict[str, Any]] = []

    class Seen:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def derive(self, _: bytes) -> bytes:
            return bytes(32)

    monkeypatch.setattr(sealed_stream, "Scrypt", Seen)
    sealed(b"")
    assert {k: asked[0][k] for k in ("n", "r", "p", "length")} == {
        "n": 131072,
        "r": 8,
        "p": 1,
        "length": 32,
    }
    assert len(sealed_stream.MAGIC) + 16 + 7 == HEADER_BYTES


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def hostile(names: list[str], members: list[bytes], end: bytes = bytes(1024)) -> bytes:
    """A tar whose manifest lists these names, each with the content "x"; without our checks."""
    digest = hashlib.sha256(b"x").hexdigest()
    content = {
        **manifest_of(()).model_dump(mode="json"),
        "files": [{"name": name, "size_bytes": 1, "sha256": digest} for name in names],
    }
    return member(backup.MANIFEST, canonical.encode(content)) + b"".join(members) + end


@pytest.mark.parametrize(
    "data",
    [
        hostile(["../evil"], [member("../evil", b"x")]),
        hostile(["/etc/evil"], [member("/etc/evil", b"x")]),
        hostile(["a//b"], [member("a//b", b"x")]),
        hostile(["a/./b"], [member("a/./b", b"x")]),
        hostile(["a\\b"], [member("a\\b", b"x")]),
        hostile(["a\nb"], [member("a\nb", b"x")]),
        hostile(["/".join("a" * 13)], [member("/".join("a" * 13), b"x")]),
        hostile(["a", "a/b"], [member("a", b"x"), member("a/b", b"x")]),
        hostile(["a", "a"], [member("a", b"x"), member("a", b"x")]),
        hostile(["b", "a"], [member("b", b"x"), member("a", b"x")]),
        hostile(["manifest.json"], [member("manifest.json", b"x")]),
        hostile(["a"], [member("a", b"", tarfile.SYMTYPE, "/etc/passwd")]),
        hostile(["a"], [member("a", b"", tarfile.LNKTYPE, "/etc/passwd")]),
        hostile(["a"], [member("a", b"", tarfile.CHRTYPE)]),
        hostile(["a"], [member("a", b"", tarfile.FIFOTYPE)]),
        hostile(["a"], [member("a", b"", tarfile.DIRTYPE)]),
        hostile(["a"], [member("a", b"x", tarfile.GNUTYPE_SPARSE)]),
        hostile(["a"], [member("././@LongLink", b"evil", tarfile.GNUTYPE_LONGNAME)]),
        hostile(["a"], [member("x", b"30 path=../evil\n", tarfile.XHDTYPE), member("a", b"x")]),
        hostile(["a"], [member("b", b"x")]),
        hostile(["a"], [member("a", b"y")]),
        hostile(["a"], [member("a", b"xx")]),
        hostile(["a"], []),
        hostile(["a"], [member("a", b"x"), member("b", b"x")]),
        hostile(["a"], [member("a", b"x")], bytes(1024) + b"more"),
        hostile(["a"], [member("a", b"x")[:-1] + b"!"]),
        hostile(["a"], [member("a", b"x")], b""),
        member(backup.MANIFEST, b"{}"),
        member(backup.MANIFEST, b"[" * 100_000),
        member("other", b"{}"),
        b"",
        b"\0" * 2048,
        b"PK\3\4" * 400,
    ],
)
def test_hostile_archive_is_refused_before_anything_is_written(tmp_path: Path, data: bytes) -> None:
    """Links, devices, names that climb, lies about sizes, what follows, what is missing."""
    with pytest.raises(Refused):
        backup.check(io.BytesIO(data), None)
    with pytest.raises(Refused):
        backup.unpack(io.BytesIO(data), None, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_no_disk_has_are_refused_at_the_header() -> None:
    """A base-256 size in a header, and a manifest that claims gigabytes of itself."""
    info = tarfile.TarInfo(backup.MANIFEST)
    for size in (2**62, backup.MAX_MANIFEST_BYTES + 1):
        info.size = size
        with pytest.raises(Refused):
            backup.check(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT)), None)


@given(st.binary(max_size=2000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    """No exception but our own."""
    for passphrase in (None, PASSPHRASE):
        with pytest.raises(Refused):
            backup.check(io.BytesIO(data), passphrase)


def test_file_that_changes_while_it_is_read_ends_the_backup(tmp_path: Path) -> None:
    """Half of two states is no backup."""
    path = tmp_path / "a"
    for later in (b"abd", b"abcd", b"ab"):
        path.write_bytes(b"abc")
        manifest = manifest_of(backup.entries_of([("a", path)]))
        path.write_bytes(later)
        with pytest.raises(OurMistake, match="changed"):
            backup.write(io.BytesIO(), [("a", path)], manifest, passphrase=None, entropy=counted)


def test_backup_appears_under_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    """Interrupted, it leaves nothing; it never replaces a file; it is 0600."""
    target = tmp_path / "b"
    with pytest.raises(RuntimeError), destination(target):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with destination(target) as stream:
        stream.write(b"x")
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OurMistake, match="exists"), destination(target):
        pass


def test_restore_interrupted_at_its_end_leaves_no_folder(tmp_path: Path) -> None:
    """The folder gets its name in the last step."""
    with pytest.raises(OurMistake, match="No such file"), placed(tmp_path / "home"):
        pass  # nothing was unpacked
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").touch()
    with pytest.raises(OurMistake, match="already"), placed(tmp_path / "home"):
        pass


def test_link_to_elsewhere_in_the_folder_ends_the_backup(tmp_path: Path) -> None:
    """Followed, it could carry anything of the machine; left out, something would be missing."""
    for name in ("a", "node.lock", ".a.xyz.new", "logs/x", "releases/1/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "releases" / "current").symlink_to("1")
    files, links = files_below(tmp_path, ("logs",))
    assert (set(files), links) == ({"a", "releases/1/y"}, {"releases/current": "1"})
    for target in ("/etc", "../a", "nothing"):
        link = tmp_path / "keys"
        link.symlink_to(target)
        with pytest.raises(OurMistake, match="link"):
            files_below(tmp_path, ("logs",))
        link.unlink()


def test_link_to_a_neighbour_comes_back_and_no_other_can_be_made(tmp_path: Path) -> None:
    """`releases/current`: without it the installed release, and its number, would be forgotten."""
    path = tmp_path / "y"
    path.touch()
    files = [("releases/1/y", path)]
    entries = backup.entries_of(files)

    def with_links(*links: tuple[str, str]) -> dict[str, Any]:
        listed = [{"name": name, "target": target} for name, target in links]
        return {**manifest_of(entries).model_dump(mode="json"), "links": listed}

    stream = io.BytesIO()
    good = Manifest.model_validate_json(json.dumps(with_links(("releases/current", "1"))))
    backup.write(stream, files, good, passphrase=None, entropy=counted)
    backup.unpack(stream, None, tmp_path / "to")
    assert (tmp_path / "to" / "releases" / "current" / "y").exists()
    for name, target in (
        ("releases/current", ".."),
        ("releases/current", "/etc"),
        ("releases/current", "1/y"),
        ("releases/current", "2"),
        ("releases/1", "current"),
        ("releases/1/y", "y"),
        ("releases", "releases"),
        ("../x", "releases"),
        ("current", "current"),
    ):
        with pytest.raises(ValueError, match="validation error"):
            Manifest.model_validate_json(json.dumps(with_links((name, target))))


class _Cheap:
    def __init__(self, salt: bytes, **_: object) -> None:
        self.salt = salt

    def derive(self, secret: bytes) -> bytes:
        return hashlib.sha256(self.salt + secret).digest()


def _small() -> bytes:
    stream, real = io.BytesIO(), sealed_stream.Scrypt
    sealed_stream.Scrypt = _Cheap  # type: ignore[misc,assignment]
    try:
        backup.write(stream, [], manifest_of(()), passphrase=PASSPHRASE, entropy=counted)
    finally:
        sealed_stream.Scrypt = real  # type: ignore[misc]
    return stream.getvalue()


SMALL = _small()
