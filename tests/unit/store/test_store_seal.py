"""The encrypted store: nothing changed, moved, cut or taken from elsewhere is ever read as data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import at_rest
import numpy as np
import pytest
from at_rest import STORE_KEY
from hypothesis import given, settings
from hypothesis import strategies as st

from client import store_format as fmt
from client import store_parts, store_seal
from client.pseudonyms import keyed_digest, pseudonym_of
from client.store import WindowStore, is_encrypted, read_manifest
from client.store_key import StoreKey
from client.store_parts import content, records
from client.store_seal import Envelope, PartCipher, StoreCipher, envelope_of
from client.store_write import StoreWriter
from shared_model import canonical
from shared_model.errors import DataFault, FedprintError, OurMistake, Refused
from shared_model.windows import Prepared

KEY = bytes(range(32))
OTHER_KEY = StoreKey(bytes(32), "another test")
MOTIF = np.random.default_rng(0xCA0A51).uniform(0.5, 1.5, 8).astype("<f2")
IDENTIFIER = "CANARY-Zdenka-Quxley"
Stage = Callable[[str], None]


def windows(number: int, count: int = 3) -> Prepared:
    """The first refused, the others of the motif, and told apart by their first sample."""
    signal = np.broadcast_to(np.resize(MOTIF, 1250), (count, 2, 1250)).astype(np.float32)
    signal[:, :, 0] = np.arange(count)[:, None] + 10 * number
    refusal = np.zeros((count, 2), np.uint8)
    refusal[0] = 4
    return Prepared(signal, np.ones(signal.shape, bool), 10.0 * np.arange(count), refusal)


def add(writer: StoreWriter, name: str, patients: int = 2) -> None:
    part = writer.new_part(name, keyed_digest(KEY, "folder", name))
    for number in range(patients):
        who = pseudonym_of(KEY, f"{IDENTIFIER} {number}")
        key = keyed_digest(KEY, "recording", f"{name} {number}")
        part.add(key, who, windows(number), {"ward": "CANARY-ward"})
    part.commit()


def make(path: Path, *, on_stage: Stage = lambda stage: None) -> Path:
    """Two parts of two patients with two usable windows and a refused one each."""
    with StoreWriter(path, KEY, STORE_KEY, on_stage=on_stage) as writer:
        add(writer, "canary-a")
        add(writer, "canary-b")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "store")


def opened(path: Path, **options: bool) -> WindowStore:
    return WindowStore.open(path, STORE_KEY, **options)


def parts(path: Path) -> list[Path]:
    """In the order of the manifest."""
    manifest, _ = read_manifest(path, STORE_KEY)
    return [path / "parts" / part.id for part in manifest.parts]


def cipher_of(path: Path, part: Path) -> PartCipher:
    _, cipher = read_manifest(path, STORE_KEY)
    assert cipher is not None
    return cipher.part(part.name)


def read_all(store: WindowStore) -> None:
    for patient in range(store.patient_count):
        store.windows_of(patient)


secrets_of_the_store = {
    "signal": MOTIF.tobytes(),
    "pseudonym": pseudonym_of(KEY, f"{IDENTIFIER} 0").encode(),
    "recording": keyed_digest(KEY, "recording", "canary-a 0").encode(),
    "label": b"CANARY-ward",
    "data set": b"canary-a",
    "source": keyed_digest(KEY, "folder", "canary-a").encode(),
    "withdrawn": pseudonym_of(KEY, f"{IDENTIFIER} 1").encode(),
    "pseudonym key's check": keyed_digest(KEY, "store", "key check").encode(),
    "store key": STORE_KEY.secret,
    "store key as text": STORE_KEY.secret.hex().encode(),
}


def found_below(*folders: Path) -> set[str]:
    """Names of the secrets that stand somewhere in a file."""
    data = [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {name for name, secret in secrets_of_the_store.items() if any(secret in x for x in data)}


def test_nothing_of_the_recordings_is_on_the_disk_at_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding and withdrawing, temporary files included; a plain store shows all to this search."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    stages = []

    def look(stage: str) -> None:
        stages.append(stage)
        assert not found_below(tmp_path), stage

    path = make(tmp_path / "store", on_stage=look)
    with StoreWriter(path, KEY, STORE_KEY, on_stage=look) as writer:
        writer.withdraw(pseudonym_of(KEY, f"{IDENTIFIER} 1"))
    assert {"part begun", "recording written", "part flushed", "manifest swapped"} <= set(stages)
    with StoreWriter(tmp_path / "plain", KEY) as writer:
        add(writer, "canary-a")
        writer.withdraw(secrets_of_the_store["withdrawn"].decode())
    assert found_below(tmp_path / "plain") == set(secrets_of_the_store) - {
        "store key", "store key as text",
    }  # fmt: skip


def test_a_flipped_bit_anywhere_in_a_file_is_refused(path: Path) -> None:
    """Found without any digest; of large files and of the manifest a sample of the bytes."""
    rng = np.random.default_rng(1)
    for part in parts(path):
        cipher = cipher_of(path, part)
        for name in fmt.PART_FILES:
            data = bytearray((part / name).read_bytes())
            assert cipher.decrypt_all(name, bytes(data))
            for place in range(0, len(data), 1 if len(data) < 1000 else 13):
                data[place] ^= 1 << (bit := int(rng.integers(8)))
                with pytest.raises(DataFault, match=f"{part.name}, {name}"):
                    cipher.decrypt_all(name, bytes(data))
                data[place] ^= 1 << bit
    whole = (path / "manifest.json").read_bytes()
    for place in range(0, len(whole), 2):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        (path / "manifest.json").write_bytes(data)
        with pytest.raises((DataFault, Refused)):
            read_manifest(path, STORE_KEY)


@pytest.mark.long
def test_a_flipped_bit_in_any_file_is_refused_by_the_full_check(path: Path) -> None:
    """On the disk, through the door that `data verify` uses; of windows a byte in eleven."""
    for file in [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]:
        whole = file.read_bytes()
        step = 11 if file.name in ("signal.bin", "refused.bin") else 1
        for place in range(0, len(whole), step):
            data = bytearray(whole)
            data[place] ^= 1 << (place % 8)
            file.write_bytes(data)
            with pytest.raises((DataFault, Refused)):
                opened(path, full=True)
        file.write_bytes(whole)
    opened(path, full=True)


@pytest.mark.parametrize("name", ["signal.bin", "valid.bin"])
def test_a_damaged_window_is_found_when_it_is_asked_for(path: Path, name: str) -> None:
    """A plain store would train on it; `data verify` is not needed here."""
    file = parts(path)[0] / name
    data = bytearray(file.read_bytes())
    data[len(data) - 1] ^= 1
    file.write_bytes(data)
    store = opened(path)
    with pytest.raises(DataFault, match="record 3 is not what was written"):
        read_all(store)


def swap(path: Path, from_file: tuple[int, str, int], to_file: tuple[int, str, int]) -> None:
    """Put a record over another: (part, file, record)."""
    step = fmt.SIGNAL_BYTES + fmt.TAG_BYTES
    part, name, record = from_file
    taken = (parts(path)[part] / name).read_bytes()[record * step : (record + 1) * step]
    part, name, record = to_file
    file = parts(path)[part] / name
    data = bytearray(file.read_bytes())
    data[record * step : (record + 1) * step] = taken
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("taken", "put"),
    [
        ((0, "signal.bin", 1), (0, "signal.bin", 0)),
        ((1, "signal.bin", 0), (0, "signal.bin", 0)),
        ((0, "refused.bin", 0), (0, "signal.bin", 0)),
    ],
)
def test_a_record_in_another_place_is_refused(
    path: Path, taken: tuple[int, str, int], put: tuple[int, str, int]
) -> None:
    """Of the same file, of another part in the same place, of another file in the same place."""
    swap(path, taken, put)
    with pytest.raises(DataFault, match="record 0 is not what was written"):
        read_all(opened(path))


def test_the_pages_of_a_large_file_cannot_change_places(tmp_path: Path) -> None:
    """Nor be left out at the beginning or in the middle."""
    cipher = StoreCipher.fresh(KEY).part("0" * 32)
    page = fmt.PAGE_BYTES
    data = np.random.default_rng(0).bytes(2 * page + 5)
    sealed = [
        cipher.encrypt("index.bin", number, data[number * page : (number + 1) * page])
        for number in range(3)
    ]
    (tmp_path / "index.bin").write_bytes(b"".join(sealed))
    assert content(tmp_path, "index.bin", cipher) == data
    assert b"".join(records(tmp_path, "index.bin", cipher)) == data
    for order in ([1, 0, 2], [1, 2], [0, 2], [0, 0, 2]):
        with pytest.raises(DataFault):
            cipher.decrypt_all("index.bin", b"".join(sealed[place] for place in order))


@pytest.mark.parametrize("name", fmt.PART_FILES)
def test_a_file_cut_at_a_record_is_refused_at_opening(path: Path, name: str) -> None:
    """The manifest, which is sealed, knows the size."""
    file = parts(path)[0] / name
    step = fmt.RECORD_BYTES[name] + fmt.TAG_BYTES
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: (size - 1) // step * step])
    with pytest.raises(DataFault, match="wrong size"):
        opened(path)


def test_a_part_of_another_store_with_the_same_key_is_refused(path: Path, tmp_path: Path) -> None:
    """Even under the right name: its salt was another."""
    other = make(tmp_path / "other")
    part = parts(path)[0]
    shutil.rmtree(part)
    shutil.copytree(parts(other)[0], part)
    with pytest.raises(DataFault):
        opened(path)


def test_an_older_manifest_with_newer_parts_is_refused_and_a_whole_older_copy_is_not(
    path: Path, tmp_path: Path
) -> None:
    """What holds and what does not: a rollback of everything is taken as it is (see ADR 20)."""
    shutil.copytree(path, tmp_path / "copy")
    with StoreWriter(path, KEY, STORE_KEY) as writer:
        writer.withdraw(pseudonym_of(KEY, f"{IDENTIFIER} 1"))
    shutil.copy(tmp_path / "copy" / "manifest.json", path)
    with pytest.raises(DataFault, match="is gone"):
        opened(path)
    assert opened(tmp_path / "copy", full=True).patient_count == 2


def test_a_wrong_key_is_told_in_words_before_anything_is_decrypted(path: Path) -> None:
    """Reading, writing; no key; and a plain store with a key configured."""
    for key, words in ((OTHER_KEY, "another key"), (None, "no key is configured")):
        for door in (WindowStore.open, lambda p, k: StoreWriter(p, KEY, k).__enter__()):
            with pytest.raises(Refused, match=words) as caught:
                door(path, key)
            assert caught.value.reason == "store-key"
            assert caught.value.do
    with StoreWriter(path.parent / "plain", KEY) as writer:
        add(writer, "canary-a")
    assert is_encrypted(path)
    assert not is_encrypted(path.parent / "plain")
    with pytest.raises(Refused, match="not encrypted") as caught:
        opened(path.parent / "plain")
    assert "data encrypt" in caught.value.do
    with pytest.raises(Refused), StoreWriter(path.parent / "plain", KEY, STORE_KEY):
        pass


def test_the_key_is_in_no_text(path: Path) -> None:
    """repr of everything that holds it, and every refusal."""
    store = opened(path)
    _, cipher = read_manifest(path, STORE_KEY)
    assert cipher is not None
    texts = [repr(one) for one in (STORE_KEY, cipher, cipher.part("0" * 32), store)]
    texts += [repr(vars(store)), repr(vars(StoreWriter(path, KEY, STORE_KEY)))]
    for key in (OTHER_KEY, None):
        with pytest.raises(FedprintError) as caught:
            WindowStore.open(path, key)
        texts += [str(caught.value), repr(caught.value)]
    for text in texts:
        for secret in (STORE_KEY.secret, OTHER_KEY.secret):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text


actions = st.lists(
    st.sampled_from(["add", "withdraw", "remove", "reseal", "abandon"]), min_size=1, max_size=6
)


@settings(max_examples=12, deadline=None)
@given(actions=actions)
def test_no_nonce_comes_twice_under_one_key(
    actions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is done to the store; and every record is sealed once."""
    seen: set[tuple[bytes, bytes]] = set()
    real = store_seal.AESGCM

    class Watched:
        def __init__(self, key: bytes) -> None:
            self.key, self.real = key, real(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            assert (self.key, nonce) not in seen
            seen.add((self.key, nonce))
            return self.real.encrypt(nonce, data, associated)

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            return self.real.decrypt(nonce, data, associated)

    path = tmp_path_factory.mktemp("nonces") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_seal, "AESGCM", Watched)
        for number, action in enumerate(["add", *actions]):
            with StoreWriter(path, KEY, STORE_KEY) as writer:
                if action == "add":
                    add(writer, f"set-{number}")
                elif action == "withdraw":
                    writer.withdraw(pseudonym_of(KEY, f"{IDENTIFIER} 1"))
                elif action == "remove":
                    names = [one.name for one in writer.manifest.data_sets]
                    writer.remove(names[0] if names and number % 2 else None)
                elif action == "reseal":
                    writer.reseal(writer.cipher)
                else:
                    part = writer.new_part("left", keyed_digest(KEY, "folder", "left"))
                    part.add("0" * 32, "1" * 32, windows(0), {})
                    part.abandon()
        assert len(seen) > len(actions)
    opened(path, full=True)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.integers(0, 700), max_size=12), data=st.data())
def test_what_is_written_in_any_pieces_comes_back(
    pieces: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Records of 100 bytes, whole and by record; the last may be shorter."""
    folder = tmp_path_factory.mktemp("pieces")
    cipher = StoreCipher.fresh(KEY).part("ab" * 16)
    written = [data.draw(st.binary(min_size=size, max_size=size)) for size in pieces]
    sink = store_parts._Sink(folder / "valid.bin", cipher)
    for piece in written:
        sink.write(piece)
    sink.finish()
    whole = b"".join(written)
    assert content(folder, "valid.bin", cipher) == whole
    assert b"".join(records(folder, "valid.bin", cipher)) == whole
    size = (folder / "valid.bin").stat().st_size
    assert size == fmt.size_on_disk("valid.bin", len(whole), sealed=True)
    rows = store_parts.open_rows(folder, "valid.bin", len(whole) // 100, cipher)
    for row in range(len(whole) // 100):
        assert rows[row].tobytes() == whole[100 * row : 100 * (row + 1)]


def test_what_is_read_is_the_same_plain_and_encrypted(path: Path, tmp_path: Path) -> None:
    """Windows, order of drawing, catalogue, refused examples."""
    with StoreWriter(tmp_path / "plain", KEY) as writer:
        add(writer, "canary-a")
        add(writer, "canary-b")
    one, other = opened(path, full=True), WindowStore.open(tmp_path / "plain", full=True)
    assert one.catalogue() == other.catalogue()
    assert one.data_sets == other.data_sets
    for mine, yours in zip(one.refused_examples(), other.refused_examples(), strict=True):
        np.testing.assert_array_equal(mine.signal, yours.signal)
        assert mine.refusal == yours.refusal
    drawn = [
        store.segments(np.array([1, 0]), 3, np.random.default_rng(5)) for store in (one, other)
    ]
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.update(cipher="none"),
        lambda body: body.update(surprise=1),
        lambda body: body.update(salt=body["salt"].upper()),
        lambda body: body.update(salt=body["salt"][2:]),
        lambda body: body.update(sealed=""),
        lambda body: body.update(sealed=body["sealed"] + "0"),
        lambda body: body.update(write="00" * 32),
        lambda body: body.update(sealed=body["sealed"][:-2]),
        lambda body: body.pop("key_check"),
    ],
)
def test_a_forged_envelope_is_refused(
    path: Path, edit: Callable[[dict[str, object]], None]
) -> None:
    """Every field is checked, and is associated data of what is sealed."""
    envelope = envelope_of((path / "manifest.json").read_bytes())
    assert isinstance(envelope, Envelope)
    body = envelope.model_dump(mode="json")
    edit(body)
    (path / "manifest.json").write_bytes(canonical.encode(body))
    with pytest.raises(DataFault):
        opened(path)


@pytest.mark.parametrize("data", [b" ", b"\n"])
def test_an_envelope_is_taken_byte_for_byte(path: Path, data: bytes) -> None:
    """A blank more is another file."""
    file = path / "manifest.json"
    file.write_bytes(file.read_bytes() + data)
    with pytest.raises(DataFault, match="not as it was written"):
        opened(path)


def test_a_full_disk_does_not_seal_a_place_twice(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is spent before the write that may fail."""
    cipher = StoreCipher.fresh(KEY).part("ab" * 16)
    sink = store_parts._Sink(tmp_path / "valid.bin", cipher)
    places: list[int] = []
    real = PartCipher.encrypt

    def full(self: PartCipher, name: str, record: int, data: bytes) -> bytes:
        places.append(record)
        if len(places) == 2:
            raise OSError("no space left")
        return real(self, name, record, data)

    monkeypatch.setattr(PartCipher, "encrypt", full)
    for _ in range(3):
        try:
            sink.write(bytes(100))
        except OSError:
            continue
    sink.abandon()
    assert len(places) == len(set(places)) > 2
    with pytest.raises(OurMistake, match="no window store"):
        read_manifest(tmp_path / "nothing", at_rest.STORE_KEY)
