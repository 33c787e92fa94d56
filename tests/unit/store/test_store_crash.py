"""kill -9 at any stage leaves the store before or after, never between; damage is named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import at_rest
import numpy as np
import pytest
from at_rest import opened, writing
from hypothesis import given, settings
from hypothesis import strategies as st

from client import store_format as fmt
from client.pseudonyms import keyed_digest, pseudonym_of
from client.store_key import StoreKey
from shared_model import canonical
from shared_model.errors import DataFault, FedprintError
from shared_model.windows import prepare
from simulations.bench_ingest import synthetic_recording

KEY = bytes(range(32))

DRIVER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from client.pseudonyms import keyed_digest, pseudonym_of
from client.store_key import StoreKey
from client.store_write import StoreWriter
from shared_model.windows import prepare

key = bytes(range(32))
prepared = prepare(None, 0, np.sin(np.arange(5000) / 8.0) ** 3, 125.0)

def change(path, store_key, action, wanted):
    def die(stage):
        if stage == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    with StoreWriter(path, key, store_key, on_stage=die) as writer:
        if action == "add":
            part = writer.new_part("set-2", "2" * 32)
            for number in range(2):
                name = keyed_digest(key, "recording", f"new {number}")
                part.add(name, pseudonym_of(key, f"new {number}"), prepared, {})
            part.commit()
        elif action == "withdraw":
            writer.withdraw(pseudonym_of(key, "old 0"))
        else:
            writer.remove("set-1")

for line in sys.stdin.read().splitlines():
    path, secret, action, stage = line.split("|")
    store_key = StoreKey(bytes.fromhex(secret), "a test") if secret else None
    child = os.fork()
    if child == 0:
        try:
            change(Path(path), store_key, action, stage)
        finally:
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

STAGES = (
    ("add", "part begun", False),
    ("add", "recording written", False),
    ("add", "part flushed", False),
    ("add", "part renamed", False),
    ("add", "manifest swapped", True),
    ("add", "old parts removed", True),
    ("withdraw", "part flushed", False),
    ("withdraw", "part renamed", False),
    ("withdraw", "manifest swapped", True),
    ("remove", "manifest swapped", True),
)


def make(path: Path) -> None:
    """Three patients, one recording of two windows each, the second with a flat PPG."""
    with writing(path, KEY) as writer:
        part = writer.new_part("set-1", "1" * 32)
        for number in range(3):
            ecg, ppg = synthetic_recording(np.random.default_rng(number), 2, 125.0, 125.0)
            ppg[1250:] = 1.0
            part.add(
                keyed_digest(KEY, "recording", f"old {number}"),
                pseudonym_of(KEY, f"old {number}"),
                prepare(ecg, 125.0, ppg, 125.0),
                {},
            )
        part.commit()


@pytest.fixture
def path(tmp_path: Path, store_key: object) -> Path:
    make(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    make(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module", params=[None, at_rest.STORE_KEY], ids=["plain", "encrypted"])
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Path]]:
    """For every stage a store whose writer was killed by SIGKILL right after it."""
    at_rest.use(request.param)
    secret = "" if request.param is None else request.param.secret.hex()
    stores = {}
    for action, stage, _ in STAGES:
        stores[action, stage] = tmp_path_factory.mktemp("killed") / "store"
        make(stores[action, stage])
    work = "\n".join(
        f"{path}|{secret}|{action}|{stage}" for (action, stage), path in stores.items()
    )
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=work, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(stores), done.stderr
    yield stores
    at_rest.use(None)


@pytest.mark.parametrize(("action", "stage", "applied"), STAGES)
def test_a_killed_writer_leaves_the_store_whole(
    killed: dict[tuple[str, str], Path], action: str, stage: str, applied: bool
) -> None:
    """Before or after, never between; the next writer clears up and goes on."""
    path = killed[action, stage]
    store = opened(path, full=True)
    after = {"add": 5, "withdraw": 2, "remove": 0}[action]
    assert store.patient_count == (after if applied else 3)
    with writing(path, KEY) as writer:
        named = {part.id for part in writer.manifest.parts}
        assert {entry.name for entry in (path / "parts").iterdir()} == named
        assert not list(path.glob(".manifest*"))
        writer.withdraw(pseudonym_of(KEY, "old 1"))
    left = opened(path, full=True)
    assert left.patient_count == max(0, store.patient_count - (action != "remove" or not applied))


def test_garbage_is_cleared_at_the_next_opening_for_writing(path: Path) -> None:
    """Temporary folders, unnamed parts, half manifests; never anything that is named."""
    version = opened(path).version
    (path / "parts" / ".new-0123").mkdir()
    (path / "parts" / ".new-0123" / "signal.bin").write_bytes(b"half")
    (path / "parts" / ("f" * 32)).mkdir()
    (path / "parts" / "stray").write_bytes(b"")
    (path / "parts" / "link").symlink_to(path)
    (path / ".manifest.json.abc.new").write_bytes(b"{")
    assert opened(path).version == version
    with writing(path, KEY):
        pass
    assert len(list((path / "parts").iterdir())) == 1
    assert not list(path.glob(".manifest*"))
    assert opened(path, full=True).version == version


@pytest.mark.parametrize("name", fmt.PART_FILES)
def test_a_flipped_bit_is_found_and_its_part_named(path: Path, name: str) -> None:
    """Index files at every opening, window data by the full check."""
    part = next((path / "parts").iterdir())
    file = part / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataFault, match=part.name) as caught:
        opened(path, full=True)
    assert caught.value.cause == "store"
    assert name in str(caught.value)


@pytest.mark.parametrize("name", fmt.PART_FILES)
@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_a_file_of_wrong_size_is_refused_at_opening(path: Path, name: str, change: str) -> None:
    """Without reading the data."""
    file = next((path / "parts").iterdir()) / name
    if change == "gone":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-1] if change == "shorter" else data + b"\0")
    with pytest.raises(DataFault) as caught:
        opened(path)
    assert caught.value.cause == "store"
    with pytest.raises(DataFault), writing(path, KEY):
        pass


def rewrite(path: Path, edit: object) -> None:
    """Change the manifest through `edit(body)` and give it a right digest again."""
    body = json.loads((path / "manifest.json").read_bytes())
    body.pop("digest")
    edit(body)  # type: ignore[operator]
    (path / "manifest.json").write_bytes(
        canonical.encode({**body, "digest": canonical.digest_of(body)})
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.update(format=2),
        lambda body: body.update(surprise=1),
        lambda body: body["parts"][0].update(id="../../../etc"),
        lambda body: body["parts"][0].update(windows=10**9),
        lambda body: body["parts"][0].update(windows=-1),
        lambda body: body["parts"].append(body["parts"][0]),
        lambda body: body["parts"][0]["files"].pop("index.bin"),
        lambda body: body["parts"][0]["files"].update({"../x": {"size": 0, "sha256": "0" * 64}}),
        lambda body: body.update(withdrawn=["someone"]),
        lambda body: body.update(generation="1"),
    ],
)
def test_a_forged_manifest_is_refused(plain: Path, edit: object) -> None:
    """Even with a right digest: every field is checked, no plain leaves the store."""
    rewrite(plain, edit)
    with pytest.raises(DataFault) as caught:
        opened(plain)
    assert caught.value.cause == "store"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"digest": 1}'])
def test_a_manifest_that_is_none_is_refused(plain: Path, data: bytes) -> None:
    """Not JSON, or another kind of JSON."""
    (plain / "manifest.json").write_bytes(data)
    with pytest.raises(DataFault):
        opened(plain)


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body["recordings"][0].update(patient=99),
        lambda body: body["recordings"][0].update(usable=1),
        lambda body: body["recordings"][0].update(usable=99),
        lambda body: body["recordings"][0].update(labels={"x": "y" * 65}),
        lambda body: body["recordings"][0].update(refusals={"eeg": {}}),
        lambda body: body["refused"].append([0, 0, 0]),
        lambda body: body.update(patients=["0"]),
        lambda body: body.update(extra=1),
    ],
)
def test_a_forged_catalogue_is_refused(plain: Path, edit: object) -> None:
    """With right digests all the way up, its contradictions are still found."""
    part = next((plain / "parts").iterdir())
    body = json.loads((part / "catalogue.json").read_bytes())
    edit(body)  # type: ignore[operator]
    data = canonical.encode(body)
    (part / "catalogue.json").write_bytes(data)
    entry = {"size": len(data), "sha256": canonical.digest(data)}
    rewrite(plain, lambda manifest: manifest["parts"][0]["files"].update({"catalogue.json": entry}))
    with pytest.raises(DataFault, match=part.name):
        opened(plain)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), key=st.sampled_from([None, at_rest.STORE_KEY]))
def test_no_mutated_store_breaks_the_reader(
    data: st.DataObject, key: StoreKey | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random bytes anywhere end in a store or in a fault, never in another exception."""
    at_rest.use(key)
    path = tmp_path_factory.mktemp("mutated") / "store"
    make(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content))
    try:
        opened(path, full=True)
    except FedprintError:
        return
    finally:
        at_rest.use(None)
