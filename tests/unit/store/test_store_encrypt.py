"""`data encrypt` and `data decrypt`: what they do, what they refuse, and kill -9 at every write."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():  # typer 0.27 on click 8.4 warns at import
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner, Result

from client import store_write
from client.cli_data import app
from client.home import NodeHome
from client.pseudonyms import keyed_digest, load_or_create_key, pseudonym_of
from client.settings import as_toml, settings_of
from client.store import WindowStore, check_openable, is_encrypted, open_store
from client.store_encrypt import decrypt_store, encrypt_store, rekey_store
from client.store_key import CREDENTIAL, key_of, name_key_file, read_key_file
from client.store_write import StoreWriter
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.windows import Prepared

MOTIF = np.random.default_rng(0xCA0A51).uniform(0.5, 1.5, 8).astype("<f2")

DRIVER = """
import os, shutil, signal, sys
from pathlib import Path
from client.home import NodeHome
from client.store_encrypt import decrypt_store, encrypt_store, rekey_store

def count_down(calls):
    left = [calls]
    def watched(real):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))

action, start, key, work, step = sys.argv[1:]
for calls in range(1, 1000, int(step)):
    home = Path(work) / str(calls) / "node"
    shutil.copytree(start, home)
    mine = Path(work) / str(calls) / "store.key"
    if Path(key).exists():
        shutil.copy2(key, mine)
        config = home / "node.toml"
        config.write_text(config.read_text().replace(key, str(mine)))
    child = os.fork()
    if child == 0:
        status = 7
        try:
            count_down(calls)
            if action == "encrypt":
                encrypt_store(NodeHome(home), mine)
            elif action == "rekey":
                rekey_store(NodeHome(home), mine.with_name("new.key"))
            else:
                decrypt_store(NodeHome(home))
            status = 0
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(ended)
    if ended != -signal.SIGKILL:
        break
"""


@pytest.fixture(autouse=True)
def no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def add(home: NodeHome, name: str) -> None:
    """Two patients with two windows each."""
    key = load_or_create_key(home)
    signal_ = np.resize(MOTIF, (2, 2, 1250)).astype(np.float32)
    with StoreWriter(home.store, key, key_of(home)) as writer:
        part = writer.new_part(name, keyed_digest(key, "folder", name))
        for number in range(2):
            prepared = Prepared(
                signal_, np.ones(signal_.shape, bool), np.arange(2.0), np.zeros((2, 2), np.uint8)
            )
            who = keyed_digest(key, "recording", f"{name} {number}")
            part.add(who, pseudonym_of(key, f"patient {number}"), prepared, {"age": 50.0})
        part.commit()


def node(folder: Path) -> NodeHome:
    """With two parts in a plain store, and one patient who withdrew."""
    home = NodeHome(folder)
    home.make()
    home.config.write_text(as_toml("alpha", 100))
    add(home, "set-a")
    add(home, "set-b")
    with StoreWriter(home.store, load_or_create_key(home)) as writer:
        writer.withdraw(pseudonym_of(load_or_create_key(home), "patient 9"))
    return home


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return node(tmp_path / "node")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.key"


def held(home: NodeHome) -> object:
    """All that the store says, to be compared."""
    store = open_store(home, full=True)
    signals = [store.windows_of(patient).signal.tobytes() for patient in range(store.patient_count)]
    return store.catalogue(), store.data_sets, store.withdrawn_count, signals


def plain_bytes(home: NodeHome) -> bool:
    """Whether the windows stand somewhere below the store."""
    return any(
        MOTIF.tobytes() in path.read_bytes() for path in home.store.rglob("*") if path.is_file()
    )


def run(home: NodeHome, *arguments: object) -> Result:
    """`fedprint-node data ...` in this process."""
    return CliRunner().invoke(app, [*map(str, arguments), "--home", str(home.root)])


def test_a_store_is_encrypted_and_made_plain_again(home: NodeHome, file: Path) -> None:
    """Same content, no plain byte left below the folder; the key is made, named, and stays."""
    before = held(home)
    assert plain_bytes(home)
    done = run(home, "encrypt", "--key-file", file)
    assert done.exit_code == 0, done.exception
    assert "may remain on the disk" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert settings_of(home).store.key_file == str(file)
    assert not plain_bytes(home)
    assert is_encrypted(home.store)
    assert held(home) == before
    secret = file.read_bytes()
    again = json.loads(run(home, "encrypt", "--key-file", file, "--json").stdout)
    assert (again["key_made"], again["settings"], again["parts"]) == (False, False, 0)
    assert run(home, "decrypt", "--yes").exit_code == 0
    assert plain_bytes(home)
    assert held(home) == before
    assert settings_of(home).store.key_file == ""
    assert file.read_bytes() == secret
    assert isinstance(run(home, "decrypt", "--yes").exception, OurMistake)


def test_a_new_store_is_encrypted_from_its_first_byte(tmp_path: Path, file: Path) -> None:
    """When the key was there before the first recording."""
    home = NodeHome(tmp_path / "node")
    home.make()
    home.config.write_text(as_toml("alpha", 100))
    assert "No window store yet" in run(home, "encrypt", "--key-file", file).stdout
    add(home, "set-a")
    assert is_encrypted(home.store)
    assert not plain_bytes(home)


def test_what_is_shown_says_whether_it_is_encrypted_and_where_the_key_is_from(
    home: NodeHome, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data show`, `data verify`, in words and as JSON."""
    for command in ("show", "verify"):
        assert "not encrypted" in run(home, command).stdout
        assert json.loads(run(home, command, "--json").stdout)["encrypted"] is False
    encrypt_store(home, file)
    for command in ("show", "verify"):
        told = run(home, command).stdout.replace("\n", "")
        assert "encrypted (AES-256-GCM)" in told
        assert str(file) in told
    folder = tmp_path / "credentials"
    folder.mkdir()
    shutil.copy2(file, folder / CREDENTIAL)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    document = json.loads(run(home, "verify", "--json").stdout)
    assert document["encrypted"] is True
    assert CREDENTIAL in document["key"]
    with pytest.raises(OurMistake, match="goes before"):
        encrypt_store(home, file)
    assert "systemd unit" in run(home, "decrypt", "--yes").stdout


def test_a_key_that_is_not_there_is_not_made_for_a_store_that_has_one(
    home: NodeHome, file: Path
) -> None:
    """Nor does node.toml name a wrong one."""
    encrypt_store(home, file)
    name_key_file(home, None)
    lost = file.with_name("lost")
    file.rename(lost)
    with pytest.raises(Refused, match="encrypted already"):
        encrypt_store(home, file)
    assert not file.exists()
    file.write_bytes(bytes(32))
    file.chmod(0o600)
    with pytest.raises(Refused, match="another key"):
        encrypt_store(home, file)
    assert settings_of(home).store.key_file == ""
    lost.rename(file)
    encrypt_store(home, file)
    assert open_store(home, full=True).patient_count == 2
    with pytest.raises(OurMistake, match="another key file"):
        encrypt_store(home, file.with_name("second"))


def test_neither_state_that_disagrees_with_the_settings_is_passed_over(
    home: NodeHome, file: Path
) -> None:
    """Plain with a key configured, encrypted without: every command refuses, no round is paid."""
    no_key = run(home, "encrypt")
    assert isinstance(no_key.exception, OurMistake)
    encrypt_store(home, file)
    name_key_file(home, None)
    for expected in ("no key is configured", "not encrypted, but a key"):
        for command in (
            ("show",), ("verify",), ("remove", "--all", "--yes"),
            ("withdraw", "x", "--yes"),
        ):  # fmt: skip
            error = run(home, *command).exception
            assert isinstance(error, Refused), command
            assert expected in error.message
            assert error.reason == "store-key"
        with (
            pytest.raises(Refused, match=expected),
            StoreWriter(home.store, load_or_create_key(home), key_of(home)),
        ):
            pass
        with pytest.raises(Refused, match=expected) as caught:
            check_openable(home)
        assert caught.value.reason == "not-ready"
        if expected.startswith("no key"):
            name_key_file(home, file)
            decrypt_store(home)
            name_key_file(home, file)


def test_the_key_is_changed_without_a_plain_byte(home: NodeHome, file: Path) -> None:
    """The new key is made and named, the old one opens nothing any more and stays."""
    with pytest.raises(OurMistake, match="not encrypted"):
        rekey_store(home, file)
    before = held(home)
    encrypt_store(home, file)
    old, new = file.read_bytes(), file.with_name("new.key")
    stages = []

    def look(stage: str) -> None:
        stages.append(stage)
        assert not plain_bytes(home)

    assert rekey_store(home, new, on_stage=look).parts == 2
    assert "manifest swapped" in stages
    assert (held(home), settings_of(home).store.key_file) == (before, str(new))
    assert file.read_bytes() == old
    with pytest.raises(Refused, match="another key"):
        WindowStore.open(home.store, read_key_file(home, file))
    assert run(home, "rekey", new).exit_code == 0
    new.unlink()
    with pytest.raises(OurMistake, match="cannot be read"):
        rekey_store(home, file.with_name("third.key"))
    assert not file.with_name("third.key").exists()


def test_a_damaged_store_is_not_sealed_as_if_it_were_whole(home: NodeHome, file: Path) -> None:
    """Nothing changes, and nothing half is left."""
    path = next(home.store.glob("parts/*/signal.bin"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    before = sorted(path for path in home.store.rglob("*"))
    with pytest.raises(DataFault, match=r"signal\.bin"):
        encrypt_store(home, file)
    assert sorted(path for path in home.store.rglob("*")) == before
    assert not is_encrypted(home.store)


def test_a_disk_without_room_for_a_copy_is_told_before_anything_is_written(
    home: NodeHome, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In megabytes."""
    monkeypatch.setattr(store_write, "SPARE_BYTES", 1 << 62)
    before = sorted(path for path in home.store.rglob("*"))
    with pytest.raises(OurMistake, match="no room"):
        encrypt_store(home, file)
    assert sorted(path for path in home.store.rglob("*")) == before


def test_a_reader_keeps_its_view_while_the_store_is_encrypted(home: NodeHome, file: Path) -> None:
    """A round in hand goes on with the windows that it has mapped."""
    store = open_store(home)
    before = store.windows_of(0).signal
    encrypt_store(home, file)
    np.testing.assert_array_equal(store.windows_of(0).signal, before)


@pytest.mark.parametrize(
    ("action", "step"),
    [
        ("encrypt", 3),
        ("decrypt", 7),
        ("rekey", 7),
        pytest.param("rekey", 1, marks=pytest.mark.long),
        pytest.param("encrypt", 1, marks=pytest.mark.long),
        pytest.param("decrypt", 1, marks=pytest.mark.long),
    ],
)
def test_killed_at_any_write_the_store_is_the_old_or_the_new_one(
    tmp_path: Path, action: str, step: int
) -> None:
    """SIGKILL before each fsync, rename, mkdir and unlink; the command again finishes it, and
    leaves nothing plain behind (`step` 1: each; else a sample)."""
    home, key = node(tmp_path / "node"), tmp_path / "store.key"
    expected = held(home)
    if action != "encrypt":
        encrypt_store(home, key)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, action, str(home.root), str(key), str(tmp_path / "work"),
         str(step)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    ended = [int(word) for word in done.stdout.split()]
    assert ended[:-1] == [-signal.SIGKILL] * (len(ended) - 1)
    assert ended[-1] == 0, done.stderr
    assert len(ended) > 30 / step
    states = set()
    for place_ in sorted((tmp_path / "work").iterdir(), key=lambda path: int(path.name))[:-1]:
        killed, mine = place_ / "node", place_ / "store.key"
        place = NodeHome(killed)
        state = (is_encrypted(place.store), settings_of(place).store.key_file)
        states.add((state[0], Path(state[1]).name))
        try:
            assert held(place) == expected
        except Refused as error:
            assert error.reason == "store-key"  # noqa: PT017
            assert state in {(False, str(mine)), (True, str(mine))}
        if action == "encrypt":
            encrypt_store(place, mine)
        elif action == "rekey":
            rekey_store(place, mine.with_name("new.key"))
            assert settings_of(place).store.key_file == str(mine.with_name("new.key"))
        elif state != (False, ""):
            decrypt_store(place)
        assert held(place) == expected
        assert is_encrypted(place.store) is (action != "decrypt")
        assert plain_bytes(place) is (action == "decrypt")
        with StoreWriter(place.store, load_or_create_key(place), key_of(place)) as writer:
            assert {path.name for path in (place.store / "parts").iterdir()} == {
                part.id for part in writer.manifest.parts
            }
    expected_states = {
        "encrypt": {(False, ""), (False, "store.key"), (True, "store.key")},
        "decrypt": {(False, ""), (False, "store.key"), (True, "store.key")},
        "rekey": {(True, "store.key"), (True, "new.key")},
    }[action]
    assert states <= expected_states
    assert step > 1 or states == expected_states
