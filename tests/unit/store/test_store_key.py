"""The key of the window store: where it may lie, who may read it, and how node.toml names it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.home import NodeHome
from client.settings import as_toml, settings_of
from client.store_key import (
    CREDENTIAL,
    KEY_BYTES,
    key_of,
    make_key_file,
    name_key_file,
    read_key_file,
)
from shared_model.errors import OurMistake

SECRET = bytes(range(7, 39))


@pytest.fixture(autouse=True)
def no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """A node with the node.toml that `init` writes."""
    made = NodeHome(tmp_path / "node")
    made.make()
    made.config.write_text(as_toml("alpha", 100))
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "store.key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def give_credential(folder: Path, secret: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    (folder / CREDENTIAL).write_bytes(secret)
    (folder / CREDENTIAL).chmod(0o440)  # the access list of systemd shows as the group's bits
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder / CREDENTIAL


def test_no_key_is_configured_at_first(home: NodeHome, tmp_path: Path) -> None:
    """Neither before `init`."""
    assert key_of(home) is None
    assert key_of(NodeHome(tmp_path / "elsewhere")) is None


def test_the_file_of_node_toml_is_the_key(home: NodeHome, file: Path) -> None:
    """And its path is said, its content never."""
    assert name_key_file(home, file)
    key = key_of(home)
    assert key is not None
    assert key.secret == SECRET
    assert str(file) in key.source
    assert repr(SECRET)[2:-1] not in repr(key)


def test_a_systemd_credential_goes_before_the_file(
    home: NodeHome, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the file is gone; other credentials alone are none."""
    name_key_file(home, file)
    file.unlink()
    path = give_credential(tmp_path / "credentials", bytes(32), monkeypatch)
    key = key_of(home)
    assert key is not None
    assert key.secret == bytes(32)
    assert CREDENTIAL in key.source
    path.rename(path.with_name("another"))
    with pytest.raises(OurMistake, match="cannot be read"):
        key_of(home)


def as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.chmod(0o640), "Others may use"),
        (lambda path: path.chmod(0o604), "Others may use"),
        (lambda path: path.write_bytes(SECRET[:31]), "exactly 32 bytes"),
        (lambda path: path.write_bytes(SECRET + b"\n"), "exactly 32 bytes"),
        (lambda path: path.write_text(SECRET.hex()), "exactly 32 bytes"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.unlink(), "cannot be read"),
        (as_link, "cannot be read"),
        (as_pipe, "not a regular file"),
        (as_folder, "not a regular file"),
    ],
)
def test_a_key_file_that_is_none_is_refused(
    home: NodeHome, file: Path, spoil: Callable[[Path], None], words: str
) -> None:
    """Without waiting, without its content in the words, and with what to do."""
    name_key_file(home, file)
    spoil(file)
    with pytest.raises(OurMistake, match=words) as caught:
        key_of(home)
    assert caught.value.do
    assert SECRET.hex() not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_key_of_another_user_is_refused(home: NodeHome, file: Path) -> None:
    """Who owns it can change it."""
    os.chown(file, 12345, 12345)
    with pytest.raises(OurMistake, match="another user"):
        read_key_file(home, file)


@pytest.mark.parametrize("mode", [0o460, 0o444, 0o404])
def test_a_credential_that_others_may_use_is_refused(
    home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Reading by the group's bits is systemd's access list; everything else is not."""
    give_credential(tmp_path / "credentials", SECRET, monkeypatch).chmod(mode)
    with pytest.raises(OurMistake, match="Others may use"):
        key_of(home)


def test_a_key_beside_the_store_is_refused(home: NodeHome) -> None:
    """A copy of the node's folder would hold both; also through a link to the folder."""
    link = home.root.parent / "link"
    link.symlink_to(home.root)
    for path in (home.root / "store.key", link / "keys" / "store.key"):
        with pytest.raises(OurMistake, match="own folder"):
            make_key_file(home, path)
        with pytest.raises(OurMistake, match="own folder"):
            read_key_file(home, path)
    with pytest.raises(OurMistake, match="absolute"):
        make_key_file(home, Path("store.key"))


def test_a_key_is_made_for_the_owner_only_and_never_overwritten(
    home: NodeHome, tmp_path: Path
) -> None:
    """From the operating system: two are not the same."""
    for name in ("a", "b"):
        make_key_file(home, tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / name).stat().st_size == KEY_BYTES
    first = (tmp_path / "a").read_bytes()
    assert first != (tmp_path / "b").read_bytes()
    with pytest.raises(OurMistake, match="never overwritten"):
        make_key_file(home, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == first
    with pytest.raises(OurMistake, match="cannot be written"):
        make_key_file(home, tmp_path / "a" / "below-a-file")


WITHOUT_TABLE = 'site = "alpha"\ndeclared_patients = 100\n'


@pytest.mark.parametrize(
    "text",
    [
        as_toml("alpha", 100),
        WITHOUT_TABLE,
        WITHOUT_TABLE + "[store]\n",
        WITHOUT_TABLE + "  [store]  \n  key_file='' # none\n[log]\nkept = 2",
        WITHOUT_TABLE + '[console]\nport = 1\n# key_file = "/x"\n',
    ],
)
@settings(max_examples=8, deadline=None)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_naming_a_key_changes_nothing_else_in_node_toml(
    text: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Comments stay too where the line was there; and it can be taken back."""
    home = NodeHome(tmp_path_factory.mktemp("node"))
    home.config.write_text(text)
    path = Path("/etc/fedprint") / name
    before = tomllib.loads(text)
    try:
        changed = name_key_file(home, path)
    except OurMistake as error:
        assert "Write under [store]" in error.do  # noqa: PT017
        assert home.config.read_text() == text
        return
    assert changed
    after = tomllib.loads(home.config.read_text())
    assert after["store"].pop("key_file") == str(path)
    before.get("store", {}).pop("key_file", None)
    assert {"store": {}, **before} == after
    assert settings_of(home).store.key_file == str(path)
    assert not name_key_file(home, path)
    assert name_key_file(home, None)
    assert settings_of(home).store.key_file == ""


@pytest.mark.parametrize("text", ['store = {key_file = "", }', 'store.key_file = ""'])
def test_a_node_toml_that_cannot_be_changed_is_left_alone(tmp_path: Path, text: str) -> None:
    """It says what to write, or changes it rightly."""
    home = NodeHome(tmp_path)
    home.config.write_text(WITHOUT_TABLE + text.replace(", }", "}") + "\n")
    whole = home.config.read_text()
    with pytest.raises(OurMistake, match="could not be changed") as caught:
        name_key_file(home, Path("/etc/store.key"))
    assert 'key_file = "/etc/store.key"' in caught.value.do
    assert home.config.read_text() == whole
