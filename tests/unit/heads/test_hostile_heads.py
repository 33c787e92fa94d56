"""A head that somebody sends is hostile: whatever is wrong with it, it is refused, in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_stand_ins import OTHER_DIGEST, made_head
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from shared_model import canonical, signing
from shared_model.errors import OurMistake, Refused
from shared_model.heads import arrays, files
from shared_model.heads.answers import answer, refuse_other_model
from shared_model.heads.arrays import Head
from shared_model.heads.manifest import (
    ARRAYS_LIMIT_BYTES,
    FORMAT,
    MANIFEST_LIMIT_BYTES,
    TAG,
    HeadManifest,
)


@pytest.fixture(scope="module")
def head() -> Head:
    """A head of open data."""
    return made_head(open_data="made up for a test")


def with_arrays(head: Head, data: bytes, **fields: Any) -> tuple[HeadManifest, bytes]:
    """The manifest that honestly names these bytes."""
    value = json.loads(head.manifest.to_bytes())
    value["arrays"] = {"digest": canonical.digest(data), "size_bytes": len(data)}
    return HeadManifest.from_bytes(canonical.encode(value | fields)), data


def changed(head: Head, **fields: Any) -> bytes:
    """head.json with other fields, in its canonical spelling."""
    return canonical.encode(json.loads(head.manifest.to_bytes()) | fields)


def test_head_is_read_as_it_was_written(head: Head, tmp_path: Path) -> None:
    """Manifest and coefficients come back to the bit."""
    files.write(tmp_path / "head", head)
    found = files.read(tmp_path / "head")
    assert found.manifest == head.manifest
    assert all((found.arrays[name] == head.arrays[name]).all() for name in head.arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["weight", "bias", "mean", "scale", "far_factor"])
def test_number_that_is_not_one_is_refused(head: Head, name: str, value: float) -> None:
    """One NaN in one coefficient, with the digest made to fit, is found."""
    bad = {key: array.copy() for key, array in head.arrays.items()}
    bad[name].flat[-1] = value
    manifest, data = with_arrays(head, save(bad))
    with pytest.raises(Refused) as caught:
        arrays.opened(manifest, data)
    assert caught.value.reason == "arrays"


def test_scale_of_zero_is_refused(head: Head) -> None:
    """Nothing is divided by it."""
    bad = head.arrays | {"scale": np.zeros(128, dtype=np.float32)}
    with pytest.raises(Refused, match="above zero"):
        arrays.opened(*with_arrays(head, save(bad)))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {name: value for name, value in a.items() if name != "bias"},
        lambda a: a | {"more": np.zeros(1, dtype=np.float32)},
        lambda a: a | {"weight": np.zeros((3, 128), dtype=np.float32)},
        lambda a: a | {"weight": np.zeros((2, 127), dtype=np.float32)},
        lambda a: a | {"far_factor": np.zeros((128, 0), dtype=np.float32)},
        lambda a: a | {"bias": np.zeros((2,), dtype=np.float64)},
        lambda a: a | {"bias": np.zeros((2,), dtype=np.int32)},
    ],
)
def test_other_names_shapes_and_types_are_refused(head: Head, change: Any) -> None:
    """Only the arrays of a head with that many classes are taken."""
    with pytest.raises(Refused):
        arrays.opened(*with_arrays(head, save(change(head.arrays))))


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_arrays_are_refused(data: bytes) -> None:
    """Neither safetensors' own faults nor anything else gets out."""
    head = _cached()
    manifest = head.manifest.model_copy(
        update={
            "arrays": head.manifest.arrays.model_copy(
                update={"digest": canonical.digest(data), "size_bytes": max(1, len(data))}
            )
        }
    )
    with pytest.raises(Refused):
        arrays.opened(manifest, data)


_made: list[Head] = []


def _cached() -> Head:
    if not _made:
        _made.append(made_head())
    return _made[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_byte_of_the_manifest_is_refused_or_harmless(data: st.DataObject) -> None:
    """Any byte may change: what is still a manifest is one in its canonical spelling."""
    body = bytearray(_cached().manifest.to_bytes())
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    try:
        found = HeadManifest.from_bytes(bytes(body))
    except Refused:
        return
    assert found.to_bytes() == bytes(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ["yes", "yes"]},
        {"classes": ["one"]},
        {"classes": [f"class {n}" for n in range(33)]},
        {"classes": []},
        {"classes": ["no", "abstain"]},
        {"classes": ["no", "yes\x1b[31m"]},
        {"classes": ["no", "../../etc/passwd"]},
        {"about": "a `link` | <script>"},
        {"about": "two\nlines"},
        {"about": "~~~ approved for diagnosis"},
        {"about": "approved ~~not a medical device~~"},
        {"about": " indented"},
        {"figures_of": "# Signature verified by the coordinator"},
        {"figures_of": "- a list"},
        {"figures_public": "+ a list"},
        {"open_data": "> a quotation"},
        {"notes": ["=== a heading"]},
        {"command": "* a list"},
        {"unit": "___"},
        {"about": "a picture ![](http://example.org/you-read-it)"},
        {"about": "x" * 601},
        {"task": "/etc/passwd"},
        {"features": 129},
        {"features": True},
        {"patients": -1},
        {"patients": 1e3},
        {"seed": 2**70},
        {"kind": "number"},
        {"temperature": None},
        {"format": 5},
        {"format": True},
        {"unknown": 1},
        {"model": {"digest": "0" * 63, "preset": "tiny", "source": ""}},
        {"arrays": {"digest": "0" * 64, "size_bytes": 2**40}},
        {"notes": ["x"] * 33},
    ],
)
def test_manifest_with_an_illegal_field_is_refused(head: Head, fields: dict[str, Any]) -> None:
    """Class counts, sizes, words that a terminal or a page would obey, unknown fields."""
    with pytest.raises(Refused) as caught:
        HeadManifest.from_bytes(changed(head, **fields))
    assert caught.value.reason == "manifest"
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "newer"), [(FORMAT + 1, True), (2**70, True), (0, False), ("5", False)]
)
def test_head_of_a_newer_format_is_said_to_be_one(head: Head, version: Any, newer: bool) -> None:
    """With what to do: whoever gave it has no other."""
    with pytest.raises(Refused) as caught:
        HeadManifest.from_bytes(changed(head, format=version, unknown=1))
    assert ("of a newer format" in str(caught.value)) == newer
    assert ("version of fedprint" in caught.value.do) == newer


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"1e999", b'"3"'])
def test_manifest_with_a_number_that_is_none_is_refused(head: Head, literal: bytes) -> None:
    """JSON that Python would read all the same."""
    body = head.manifest.to_bytes()
    limit = json.dumps(head.manifest.distance.limit).encode()
    assert body.count(b'"limit":' + limit) == 1
    with pytest.raises(Refused):
        HeadManifest.from_bytes(body.replace(b'"limit":' + limit, b'"limit":' + literal))


def test_manifest_too_large_or_too_deep_is_refused() -> None:
    """Nothing is parsed beyond the limit, and nesting does not end the process."""
    with pytest.raises(Refused, match="larger"):
        HeadManifest.from_bytes(b"[" * (MANIFEST_LIMIT_BYTES + 1))
    with pytest.raises(Refused):
        HeadManifest.from_bytes(b"[" * 100_000)


def test_second_spelling_of_a_manifest_is_refused(head: Head) -> None:
    """One head has one digest: spaces or another order make no second one."""
    with pytest.raises(Refused, match="canonical"):
        HeadManifest.from_bytes(json.dumps(json.loads(head.manifest.to_bytes())).encode())


def test_arrays_of_another_size_are_not_parsed(head: Head) -> None:
    """Neither beyond the limit nor beyond what the manifest says."""
    for data in (b"x" * (ARRAYS_LIMIT_BYTES + 1), arrays.to_bytes(head.arrays) + b"x"):
        with pytest.raises(Refused) as caught:
            arrays.opened(head.manifest, data)
        assert caught.value.reason == "size"


def test_coefficients_of_another_head_are_refused(head: Head) -> None:
    """The same shapes under a manifest that does not name them."""
    other = {name: value * 1.5 for name, value in head.arrays.items()}
    with pytest.raises(Refused) as caught:
        arrays.opened(head.manifest, arrays.to_bytes(other))
    assert caught.value.reason == "digest"


@pytest.mark.parametrize("name", [files.MANIFEST, files.ARRAYS, files.CARD])
def test_links_pipes_and_folders_are_not_opened(head: Head, tmp_path: Path, name: str) -> None:
    """A file of a head is a regular file in its folder, not what a link points at."""
    folder = tmp_path / "head"
    files.write(folder, head)
    body = (folder / name).read_bytes()
    (tmp_path / "elsewhere").write_bytes(body)
    for make in (
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        os.mkfifo,
        lambda path: path.mkdir(),
    ):
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(Refused) as caught:
            files.read(folder)
        assert caught.value.reason == "files"
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            (folder / name).rmdir()
        else:
            (folder / name).unlink()
        (folder / name).write_bytes(body)


def test_card_that_says_something_else_is_refused(head: Head, tmp_path: Path) -> None:
    """The card is the manifest's: praise that was added by hand does not travel."""
    files.write(tmp_path / "head", head)
    path = tmp_path / "head" / files.CARD
    path.write_text(path.read_text() + "\nApproved as a medical device.\n")
    with pytest.raises(Refused) as caught:
        files.read(tmp_path / "head")
    assert caught.value.reason == "card"


def test_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    """In words, not with a traceback. Of a file that is not there it said "is a link or cannot be
    opened"."""
    with pytest.raises(OurMistake):
        files.read(tmp_path / "nothing")
    with pytest.raises(Refused, match=r"holds no head: head\.json is absent") as refused:
        files.read(tmp_path)
    assert refused.value.do


def test_signed_head_verifies_with_its_signer_alone(head: Head, tmp_path: Path) -> None:
    """Another key, another tag, a changed manifest or no signature: refused."""
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    folder = tmp_path / "head"
    files.write(folder, head)
    with pytest.raises(Refused):
        files.verify(folder, signing.public_bytes(key))
    files.sign(folder, key)
    assert files.verify(folder, signing.public_bytes(key)).manifest == head.manifest
    with pytest.raises(Refused):
        files.verify(folder, signing.public_bytes(other))
    body = head.manifest.to_bytes()
    for signature in (
        signing.sign(key, "release-manifest", body),
        signing.sign(key, TAG, body + b" "),
        b"",
        b"x" * 65,
    ):
        (folder / files.SIGNATURE).write_bytes(signature)
        with pytest.raises(Refused):
            files.verify(folder, signing.public_bytes(key))


def test_head_without_noise_on_closed_data_is_not_signed_and_not_taken(tmp_path: Path) -> None:
    """It holds aggregates of patients: it stays, also where somebody has signed it by hand."""
    key = Ed25519PrivateKey.generate()
    files.write(tmp_path / "head", _cached())
    with pytest.raises(Refused) as caught:
        files.sign(tmp_path / "head", key)
    assert caught.value.reason == "not private"
    by_hand = signing.sign(key, TAG, _cached().manifest.to_bytes())
    (tmp_path / "head" / files.SIGNATURE).write_bytes(by_hand)
    with pytest.raises(Refused) as caught:
        files.verify(tmp_path / "head", signing.public_bytes(key))
    assert caught.value.reason == "not private"


def test_fingerprints_of_another_model_are_refused(head: Head) -> None:
    """A head means nothing on them."""
    refuse_other_model(head, head.manifest.model.digest, "fedprint-node x ")
    with pytest.raises(Refused) as caught:
        refuse_other_model(head, OTHER_DIGEST, "fedprint-node x ")
    assert caught.value.reason == "model"
    assert "fedprint-node x" not in caught.value.do  # the head's model is nobody's


def test_answers_of_absurd_fingerprints_are_abstentions(head: Head) -> None:
    """Not finite, or far from anything trained on."""
    rows = np.zeros((3, 128), dtype=np.float32)
    rows[0], rows[1], rows[2, 5] = np.nan, 1e6, np.inf
    found = answer(head, rows)
    assert [one.value for one in found] == [None, None, None]
    assert "far" in found[1].why_abstained
