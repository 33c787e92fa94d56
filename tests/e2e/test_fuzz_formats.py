"""Mutated recordings of every format: each becomes a Recording or a named fault, nothing else.

The readers run in a child process with a limit on memory and on CPU time for each file, so that a
crash of a parser in C, a hang or an allocation by a declared length fails the test. Real files are
mutated where `FEDPRINT_DATA` has them, else files written here. Mutations a format: FEDPRINT_FUZZ
(default 200). `python tests/e2e/test_fuzz_formats.py wfdb 2000 0` runs one format alone.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FORMATS = ("wfdb", "edf", "dicom", "csv", "parquet")
HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("FEDPRINT_DATA", HERE.parents[2].parent / "shared" / "data"))
CPU_S_PER_FILE = 10
MEMORY_BYTES = 2 << 30
"""Allowed on top of what the imports take."""
HUGE = (
    b"0",
    b"-1",
    b"1",
    b"99999999",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"99999999999999999999",
    b"1e308",
    b"1e-308",
    b"nan",
    b"inf",
    b"-inf",
    b"0x10",
    b"",
    b"../../etc/passwd",
    b"\xff\xff",
    b"\x00",
)


@pytest.mark.parametrize("format_name", FORMATS)
def test_mutated_file_is_a_recording_or_a_named_fault(format_name: str) -> None:
    count = int(os.environ.get("FEDPRINT_FUZZ", "200"))
    done = subprocess.run(
        [sys.executable, str(HERE), format_name, str(count), "20261121"],
        capture_output=True,
        text=True,
        timeout=500 + count,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["files"] == count
    assert told["recordings"] > 0, "no mutation was harmless: the corpus itself is unreadable"
    assert sum(told["faults"].values()) > 0, "no mutation did harm: the mutations are too weak"


def makers() -> ModuleType:
    path = HERE.parents[1] / "unit" / "records" / "makers.py"
    spec = importlib.util.spec_from_file_location("record_makers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corpus(format_name: str, folder: Path) -> list[dict[str, bytes]]:
    """Sets of files (name -> bytes) to be mutated: real ones where present, and our own."""
    make = makers()
    own = folder / "own"
    own.mkdir()
    sets: list[dict[str, bytes]] = []
    if format_name == "wfdb":
        make.wfdb_record(own, comments=("69 M",), beats=True)
        sets.append({path.name: path.read_bytes() for path in own.iterdir()})
        if DATA.is_dir():
            sets.append(short_wfdb(DATA / "holter_mitdb" / "mitdb_101.hea"))
    elif format_name == "edf":
        make.edf_file(own / "a.edf", patient={"code": "X1"}, annotations=("start",))
        sets.append({"a.edf": (own / "a.edf").read_bytes()})
        if DATA.is_dir():
            sets.append({"r.edf": (DATA / "identity_ecg_id" / "ecgid_01_rec_1.edf").read_bytes()})
    elif format_name == "dicom":
        make.dicom_file(own / "a.dcm", PatientName="Doe^Jane")
        sets.append({"a.dcm": (own / "a.dcm").read_bytes()})
        import pydicom

        real = Path(pydicom.__file__).parent / "data" / "test_files" / "waveform_ecg.dcm"
        sets.append({"r.dcm": real.read_bytes()})
    elif format_name == "csv":
        make.csv_file(own / "a.csv")
        make.table_file(
            own / "t.csv", [{"recording": "a", "patient_id": "p1", "fs_hz": "125", "age": "50"}]
        )
        sets.append({path.name: path.read_bytes() for path in own.iterdir()})
        if DATA.is_dir():
            real = DATA / "clinic_ppg_bp" / "ppgbp_100_1.csv"
            table = (
                (DATA / "clinic_ppg_bp" / "recordings.csv").read_bytes().splitlines(keepends=True)
            )
            rows = [line for line in table if line.startswith((b"recording", b"ppgbp_100_1,"))]
            sets.append({real.name: real.read_bytes(), "recordings.csv": b"".join(rows)})
    else:
        make.parquet_file(own / "a.parquet", age=[40.0, 50.0, None], hr_reference_bpm=[[70.0]] * 3)
        sets.append({"a.parquet": (own / "a.parquet").read_bytes()})
        if DATA.is_dir():
            import pyarrow.parquet as pq

            pq.write_table(
                pq.read_table(DATA / "quality_cinc2011" / "recordings.parquet")[:4],
                own / "r.parquet",
            )
            sets.append({"r.parquet": (own / "r.parquet").read_bytes()})
    return sets


def short_wfdb(header: Path, frames: int = 2500) -> dict[str, bytes]:
    """The first frames of a real one-channel record of format 16 and its annotations."""
    name = header.stem
    values = np.frombuffer(header.with_suffix(".dat").read_bytes(), dtype="<i2", count=frames)
    first, line = header.read_text().splitlines()[:2]
    parts = line.split()
    parts[6] = str(int(values.sum(dtype=np.int64)) % 65536)
    text = f"{' '.join(first.split()[:3])} {frames}\n{' '.join(parts)}\n"
    marks = header.with_suffix(".atr").read_bytes()[:200]
    return {
        f"{name}.hea": text.encode(),
        f"{name}.dat": values.tobytes(),
        f"{name}.atr": marks + b"\0\0",
    }


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random changes: bits, cuts, insertions, numbers replaced by absurd ones."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 4]))):
        head = min(len(changed), 1024)
        reach = head if rng.random() < 0.6 else len(changed)
        if reach < 2:
            break
        at = int(rng.integers(0, reach))
        if rng.random() < 0.2:
            at = max(0, len(changed) - 1 - int(rng.integers(0, 2048)))  # footers
        choice = int(rng.integers(0, 7))
        if choice == 0:
            for _ in range(int(rng.integers(1, 20))):
                where = int(rng.integers(0, reach))
                changed[where] ^= 1 << int(rng.integers(0, 8))
        elif choice == 1:
            del changed[at:]
        elif choice == 2:
            changed[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif choice == 3:
            del changed[at : at + int(rng.integers(1, 64))]
        elif choice == 4:
            changed[at : at + 8] = HUGE[int(rng.integers(0, len(HUGE)))]
        elif choice == 5:
            numbers = list(re.finditer(rb"\d+", bytes(changed[:reach])))
            if numbers:
                hit = numbers[int(rng.integers(0, len(numbers)))]
                changed[hit.start() : hit.end()] = HUGE[int(rng.integers(0, len(HUGE)))]
        else:
            changed[at : at + 4] = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0")[
                int(rng.integers(0, 3))
            ]
    return bytes(changed)


def run(format_name: str, count: int, seed: int) -> dict[str, object]:
    """Read `count` mutated sets of files; raises on the first outcome that is not allowed."""
    from client.records import CAUSES, ReadFault, Recording, guess_mapping, read_folder

    recordings, faults = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        sets = corpus(format_name, Path(name))
        place = Path(name) / "in"
        place.mkdir()
        for number in range(count):
            rng = np.random.default_rng([seed, FORMATS.index(format_name), number])
            chosen = sets[number % len(sets)]
            victim = sorted(chosen)[int(rng.integers(0, len(chosen)))]
            for old in place.iterdir():
                old.unlink()
            for file, data in chosen.items():
                (place / file).write_bytes(mutate(data, rng) if file == victim else data)
            signal.setitimer(signal.ITIMER_PROF, CPU_S_PER_FILE)
            try:
                mapping = guess_mapping(place).model_copy(update={"one_file_is_one_patient": True})
                for item in read_folder(place, mapping):
                    if isinstance(item, ReadFault):
                        assert item.cause in CAUSES, item
                        assert "more memory" not in item.message, item
                        faults[item.cause] += 1
                    else:
                        check(item)
                        assert isinstance(item, Recording)
                        recordings += 1
            except BaseException:
                print(f"{format_name}: mutation {number} of seed {seed}", file=sys.stderr)
                raise
            if number == 0:
                limit_memory()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {"files": count, "recordings": recordings, "faults": dict(faults)}


def check(item: object) -> None:
    """What every Recording promises."""
    from client.records import Recording

    assert isinstance(item, Recording)
    assert item.channels
    for channel in item.channels.values():
        assert channel.samples.dtype == np.float64
        assert channel.samples.ndim == 1
        assert not np.isinf(channel.samples).any()
        assert not np.isnan(channel.samples).all()
        assert 25 <= channel.fs_hz <= 2000
    for value in item.labels.values():
        assert isinstance(value, str) or np.isfinite(value)


def limit_memory() -> None:
    """Allow MEMORY_BYTES of address space on top of what is in use once all parsers are loaded."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES, used_bytes + MEMORY_BYTES))


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("error")
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
