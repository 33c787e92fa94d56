"""No edit of an exported ledger passes: 10,000 random ones, of the bytes, of the structure, signed
again by a thief, and by the hospital itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from export_stand_ins import Consortium, key_of, public, resigned

from auditor.ledger import Ledger
from auditor.ledger_between import between
from auditor.ledger_examine import examine
from auditor.verify import failed
from shared_model import canonical, ledger_export, signing
from shared_model.errors import FedprintError
from shared_model.ledger import Entry
from shared_model.ledger_export import Export, open_export

EDITS = 10_000
CHUNKS = 10


class Case:
    """An honest file of alpha, and what beta and gamma have exported."""

    def __init__(self) -> None:
        self.made = Consortium.after(rounds=2)
        self.data = self.made.file("alpha")
        self.entries = [link.entry for link in self.made.hospitals["alpha"].chain.links]
        self.others = [self._examined(site) for site in ("beta", "gamma")]

    def _examined(self, site: str) -> Ledger:
        found, findings = examine(site, self.made.file(site), public("root"), public("run"))
        assert found is not None
        assert not failed(findings)
        return found

    def refused(self, data: bytes) -> bool:
        """As `audit_ledgers` decides, before anything is counted."""
        found, findings = examine("alpha", data, public("root"), public("run"))
        if found is None or failed(findings):
            return True
        return failed(between([found, *self.others]))


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_the_honest_file_passes(case: Case) -> None:
    assert not case.refused(case.data)


# Edits of the bytes


def flip(case: Case, rng: random.Random) -> bytes:
    data = bytearray(case.data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(case: Case, rng: random.Random) -> bytes:
    return case.data[: rng.randrange(len(case.data))]


def splice(case: Case, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(case.data)) for _ in range(2))
    middle = rng.choice((b"", case.data[a:b] * 2, case.data[a:b][::-1], b" "))
    return case.data[:a] + middle + case.data[b:]


def appended(case: Case, rng: random.Random) -> bytes:
    return case.data + rng.choice((b"\n", b" ", b"{}", case.data, b"\x00"))


# Edits of the structure, written canonically


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [x for key in value for x in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [x for at, item in enumerate(value) for x in leaves(item, (*path, at))]
    return [path]


def altered(value: Any, rng: random.Random) -> Any:
    """Another value, mostly of the same type and form."""
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice('0123456789abcdefz{}"~') + value[at + 1 :]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 10))
    return rng.choice((None, 0, 1.5, "", [], {}, True))


def plain(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(case.data)
    return found


def leaf(case: Case, rng: random.Random) -> bytes:
    value = plain(case)
    path = rng.choice(leaves(value))
    spot = value
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = altered(spot[path[-1]], rng)
    return canonical.encode(value)


def moved(items: list[Any], rng: random.Random) -> list[Any]:
    """An item removed, swapped with another, repeated, or the end cut off."""
    items = list(items)
    at, to = rng.sample(range(len(items)), 2)
    match rng.randrange(4):
        case 0:
            del items[at]
        case 1:
            items[at], items[to] = items[to], items[at]
        case 2:
            items.insert(to, items[at])
        case _:
            del items[max(at, 1) :]
    return items


def moved_lines(case: Case, rng: random.Random) -> bytes:
    value = plain(case)
    value["lines"] = moved(value["lines"], rng)
    return canonical.encode(value)


def dropped_field(case: Case, rng: random.Random) -> bytes:
    value = plain(case)
    del value[rng.choice(list(value))]
    return canonical.encode(value)


# Signed again


def sealed(case: Case, signer: str, **changes: Any) -> bytes:
    """The file with these fields, signed, whatever they are."""
    value = {**plain(case), **changes}
    del value["signature"]
    signature = signing.sign(key_of(signer), ledger_export.TAG, canonical.encode(value))
    return canonical.encode({**value, "signature": signature.hex()})


def by_a_thief(case: Case, rng: random.Random) -> bytes:
    """The file, or all its entries too, signed by a key that no roster names."""
    if rng.random() < 0.3:
        return sealed(case, "thief", created=f"2026-11-{rng.randrange(1, 29):02}")
    entries = rewritten(case.entries, rng)
    first = entries[0]
    if hasattr(first, "identity_key"):
        entries[0] = first.model_copy(update={"identity_key": public("thief").hex()})
    lines = [line.decode() for line in resigned(entries, "thief")]
    return sealed(case, "thief", lines=lines)


def lines_by_itself(case: Case, rng: random.Random) -> bytes:
    """The hospital signs the file again; the lines are as they were signed, moved or altered."""
    lines = plain(case)["lines"]
    if rng.random() < 0.5:
        lines = moved(lines, rng)
    else:
        at = rng.randrange(len(lines))
        new = altered(lines[at], rng)
        lines[at] = new if new != lines[at] else lines[at] + " "
    return sealed(case, "alpha", lines=lines)


def rewritten(entries: list[Entry], rng: random.Random) -> list[Entry]:
    """Another history: entries moved, or one figure in one of them changed."""
    if rng.random() < 0.5:
        return moved(entries, rng)
    while True:
        at = rng.randrange(len(entries))
        name = rng.choice([n for n in type(entries[at]).model_fields if n not in FIXED])
        old = getattr(entries[at], name)
        new = bent(old, rng)
        other = entries[at].model_copy(update={name: new})
        try:
            type(other).model_validate(other.model_dump())
        except ValueError:
            continue
        return [*entries[:at], other, *entries[at + 1 :]]


FIXED = {"kind", "version", "site", "sequence", "unit", "adjacency"}


def bent(old: Any, rng: random.Random) -> Any:
    match old:
        case bool():
            return not old
        case int():
            return old + rng.choice((1, 2, 100))
        case float():
            return old * rng.uniform(0.1, 0.9)
        case str():
            return old[:-1] + rng.choice([x for x in "0123456789abcdef" if x != old[-1]])
        case _:
            return rng.choice((0.5, 1.5))


def history_by_itself(case: Case, rng: random.Random) -> bytes:
    """The hospital writes its history again and signs every entry; others have seen the first one.
    It shows or hides who has countersigned."""
    lines = [line.decode() for line in resigned(rewritten(case.entries, rng), "alpha")]
    hidden: dict[str, Any] = {"countersigned": []} if rng.random() < 0.7 else {}
    return sealed(case, "alpha", lines=lines, **hidden)


def evidence_by_itself(case: Case, rng: random.Random) -> bytes:
    """The hospital signs its file again with other rosters, heads or countersignatures."""
    value = plain(case)
    what = rng.choice(("rosters", "witnessed", "countersigned"))
    paths = [path for path in leaves(value[what]) if path[-1] not in ("run", "kind")]
    spot, path = value[what], rng.choice(paths)
    for step in path[:-1]:
        spot = spot[step]
    old = spot[path[-1]]
    if isinstance(old, int):
        spot[path[-1]] = old + rng.choice((1, 2, 50))
    else:
        at = rng.randrange(len(old))
        new = rng.choice([x for x in "0123456789abcdef" if x != old[at]])
        spot[path[-1]] = old[:at] + new + old[at + 1 :]
    return sealed(case, "alpha", **{what: value[what]})


Edit = Callable[[Case, random.Random], bytes]
ALL: tuple[Edit, ...] = (
    flip,
    cut,
    splice,
    appended,
    leaf,
    moved_lines,
    dropped_field,
    by_a_thief,
    lines_by_itself,
    history_by_itself,
    evidence_by_itself,
)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_edit_is_refused(case: Case, chunk: int) -> None:
    """Each kind of edit as often as the others; an edit that changes nothing is made again."""
    tried = 0
    for number in range(chunk, EDITS, CHUNKS):
        edit = ALL[number // CHUNKS % len(ALL)]
        rng = random.Random(f"{edit.__name__} {number}")
        data = case.data
        while data == case.data:
            data = edit(case, rng)
        assert case.refused(data), f"{edit.__name__} {number} passed"
        tried += 1
    assert tried == EDITS // CHUNKS


def test_a_history_written_again_passes_alone_and_is_found_by_what_others_hold(case: Case) -> None:
    """So it is the other hospitals that find it, not a lucky error."""
    alone = 0
    for number in range(60):
        data = history_by_itself(case, random.Random(number))
        found, findings = examine("alpha", data, public("root"), public("run"))
        if found is not None and not failed(findings):
            alone += 1
            assert not failed(between([found]))
            assert failed(between([found, *case.others]))
    assert alone >= 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"signature":1}',
        b'{"signature":"zz"}',
        b'{"signature":"","x":' + b"9" * 5000 + b"}",
        b'{"signature":"","x":1e999}',
        b'{"signature":"","x":NaN}',
        b'{"signature":"","x":"\\ud800"}',
        b"\xff\xfe\x00",
    ],
    ids=lambda data: f"{data[:12]!r}",
)
def test_hostile_bytes_are_refused_by_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(FedprintError):
        open_export(data)


def test_a_file_that_is_too_large_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr(ledger_export, "MAX_EXPORT_BYTES", len(case.data) - 1)
    with pytest.raises(FedprintError, match="larger than any"):
        open_export(case.data)


def test_what_is_sealed_is_what_is_opened(case: Case) -> None:
    found = open_export(case.data)
    assert found.export == case.made.export("alpha")
    assert isinstance(found.export, Export)
    assert canonical.digest(case.data) == found.digest
