"""A release is refused unless every byte of it is the signed one."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_stand_ins import Story, key_of, public

from shared_model import canonical, release, release_signed, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.release import Evidence, Manifest
from shared_model.release_checks import verify
from shared_model.release_files import (
    code_digest,
    pack,
    parts_of,
    read_release,
    read_signer,
    unpack,
    write_copy,
    write_release,
)
from shared_model.release_signed import ReleaseBytes
from shared_model.release_words import words

SLOW = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def files(make) -> ReleaseBytes:
    return read_release(make(Story(rounds=2)).path)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def resigned(files: ReleaseBytes, change, key: str = "release") -> ReleaseBytes:
    """The same release with a changed manifest, signed again."""
    content = json.loads(files.manifest)
    change(content)
    data = canonical.encode(content)
    return replace(files, manifest=data, signature=signing.sign(key_of(key), release.TAG, data))


def test_an_untouched_release_verifies(files):
    found = verify(files, public("release"))
    assert found.manifest.number == 1
    assert found.manifest.private is True
    assert set(found.weights) == {"head", "trunk"}


@SLOW
@given(data=st.data())
def test_every_flipped_bit_is_refused(files, data):
    parts = parts_of(files)
    name = data.draw(st.sampled_from(sorted(parts)))
    at = data.draw(st.integers(0, len(parts[name]) - 1))
    parts[name] = flipped(parts[name], at, data.draw(st.integers(0, 7)))
    changed = ReleaseBytes(
        manifest=parts["manifest.json"],
        signature=parts["manifest.sig"],
        weights=parts["fingerprint_head.safetensors"],
        evidence=parts["evidence.json"],
    )
    with pytest.raises(Refused):
        verify(changed, public("release"))


def test_every_flipped_byte_of_signature_and_weights_is_refused(files):
    for at in range(len(files.signature)):
        with pytest.raises(Refused):
            verify(replace(files, signature=flipped(files.signature, at, 0)), public("release"))
    for at in range(len(files.weights)):
        with pytest.raises(Refused):
            verify(replace(files, weights=flipped(files.weights, at, 3)), public("release"))


def test_every_flipped_byte_of_the_manifest_is_refused(files):
    for at in range(len(files.manifest)):
        with pytest.raises(Refused):
            verify(replace(files, manifest=flipped(files.manifest, at, 0)), public("release"))


@pytest.mark.parametrize("cut", [0, 1, 63, 65])
def test_a_signature_of_another_length_is_refused(files, cut):
    signature = (files.signature + b"\0")[:cut]
    with pytest.raises(Refused, match="signature"):
        verify(replace(files, signature=signature), public("release"))


def test_an_unknown_signer_is_named_by_its_key_digest(files):
    with pytest.raises(Refused) as caught:
        verify(files, public("mallory"))
    assert caught.value.reason == "signer"
    assert signing.key_digest(public("release"))[:16] in str(caught.value)


def test_a_manifest_that_names_the_pinned_key_but_is_signed_by_another_is_refused(files):
    with pytest.raises(Refused) as caught:
        verify(resigned(files, lambda content: None, key="mallory"), public("release"))
    assert caught.value.reason == "signature"


def test_a_signature_made_for_another_purpose_is_refused(files):
    other = signing.sign(key_of("release"), "train-request", files.manifest)
    with pytest.raises(Refused) as caught:
        verify(replace(files, signature=other), public("release"))
    assert caught.value.reason == "signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(extra=1),
        lambda m: m.update(private=False),
        lambda m: m.update(number=0),
        lambda m: m.update(number=True),
        lambda m: m.update(number="1"),
        lambda m: m.update(schema_version=1),
        lambda m: m.update(name="../../etc"),
        lambda m: m.update(name="a\n"),
        lambda m: m.update(limits="\x1b[2J"),
        lambda m: m.update(aggregation="plain"),
        lambda m: m.update(aggregation="UnmaskedForSimulation"),
        lambda m: m["lineage"]["rounds"][1].update(outcome="closed"),
        lambda m: m["lineage"]["rounds"][1].update(sum=None),
        lambda m: m["privacy"][0].update(epsilon=0),
        lambda m: m["privacy"][0].update(trust_model="distributed"),
        lambda m: m["privacy"][0].update(unit="one record"),
        lambda m: m["privacy"].clear(),
        lambda m: m["lineage"].update(minimum_contributors=1),
        lambda m: m["lineage"]["rounds"].clear(),
        lambda m: m["model"].update(width=10**9),
        lambda m: m["weights"].update(size_bytes=2**40),
        lambda m: m.pop("limits"),
    ],
)
def test_a_manifest_with_an_illegal_field_is_refused_though_signed(files, change):
    with pytest.raises(Refused) as caught:
        verify(resigned(files, change), public("release"))
    assert caught.value.reason == "manifest"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["lineage"]["rounds"][0].update(model_out="0" * 64),
        lambda m: m["lineage"]["rounds"].reverse(),
        lambda m: m["lineage"]["rounds"][1].update(outcome="closed", sum=None),
        lambda m: m["lineage"]["rounds"][1]["sum"].update(transcript="0" * 64),
        lambda m: m["lineage"]["rounds"][1]["sum"].update(survivors=["alpha", "beta"]),
        lambda m: m["lineage"]["rounds"][1]["sum"].update(dropped=["delta"]),
        lambda m: m["lineage"]["rounds"][1]["sum"].update(sum_digest="0" * 64),
        lambda m: m["lineage"]["rounds"][1]["sum"].update(statement_digest="0" * 64),
        lambda m: m["lineage"]["warm_start"].update(digest="0" * 64),
        lambda m: m["lineage"]["rounds"][0]["contributors"].pop(),
        lambda m: m["lineage"]["rounds"][0]["contributors"].reverse(),
        lambda m: m["lineage"]["rounds"][0]["contributors"][0].update(delta=1e-6),
        lambda m: m["lineage"]["rounds"][0]["contributors"][0].update(body_digest="0" * 64),
        lambda m: m["lineage"]["rounds"][0]["contributors"][0].update(declared_patients=9),
        lambda m: m["lineage"]["rounds"][0]["plan"].update(noise_multiplier=9.0),
        lambda m: m["lineage"]["rounds"][0]["plan"].update(steps=1),
        lambda m: m["lineage"].update(minimum_contributors=4),
        lambda m: m["privacy"].pop(),
        lambda m: m["privacy"][0].update(steps=1),
        lambda m: m["privacy"][0].update(lifetime_epsilon=0.01),
        lambda m: m["privacy"][0].update(identity_key=public("mallory").hex()),
        lambda m: m["privacy"][0].update(declared_patients=7),
        lambda m: m.update(root_key=public("mallory").hex()),
        lambda m: m.update(run_key=public("mallory").hex()),
    ],
)
def test_a_lineage_that_its_signed_replies_do_not_bear_out_is_refused_though_signed(files, change):
    with pytest.raises(Refused) as caught:
        verify(resigned(files, change), public("release"))
    assert caught.value.reason == "lineage"


def with_evidence(files: ReleaseBytes, change) -> ReleaseBytes:
    """The same release with changed evidence, signed again."""
    content = json.loads(files.evidence)
    change(content)
    data = canonical.encode(content)

    def follow(manifest):
        manifest["evidence"] = {"digest": canonical.digest(data), "size_bytes": len(data)}

    return replace(resigned(files, follow), evidence=data)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e["rounds"][1]["agreements"].pop(),
        lambda e: e["rounds"][1]["agreements"].clear(),
        lambda e: e["rounds"][1]["answers"].pop(),
        lambda e: e["rounds"][1]["receipts"].clear(),
        lambda e: e["rounds"][1]["receipts"].append(e["rounds"][1]["receipts"][0]),
        lambda e: e["rounds"][1].update(receipts=e["rounds"][0]["receipts"]),
        lambda e: e["rounds"][1].update(agreements=e["rounds"][0]["agreements"]),
        lambda e: e["rounds"][1].update(statement=e["rounds"][0]["statement"]),
        lambda e: e["rounds"][1].update(answers=e["rounds"][1]["receipts"]),
        lambda e: e["rounds"][1]["answers"][0].update(site="beta"),
        lambda e: e["rounds"][1].update(statement=""),
        lambda e: e["rounds"][1].update(answers=e["rounds"][0]["answers"]),
    ],
)
def test_a_sum_that_its_signed_messages_do_not_bear_out_is_refused_though_signed(make, change):
    """Threshold 3 of 3: each agreement and each receipt is needed."""
    files = read_release(make(Story(rounds=2, threshold=3)).path)
    verify(files, public("release"))
    with pytest.raises(Refused) as caught:
        verify(with_evidence(files, change), public("release"))
    assert caught.value.reason == "lineage"


def test_rosters_of_another_root_are_refused_though_signed(files):
    from shared_model import roster

    def change(evidence):
        signed = roster.SignedRoster.from_bytes(bytes.fromhex(evidence["rosters"][0]))
        again = roster.sign(signed.roster, key_of("mallory"))
        evidence["rosters"] = [again.to_bytes().hex()]

    with pytest.raises(Refused, match="root key"):
        verify(with_evidence(files, change), public("release"))


def test_another_spelling_of_the_same_manifest_is_refused_though_signed(files):
    data = json.dumps(json.loads(files.manifest), sort_keys=True).encode()
    changed = replace(
        files, manifest=data, signature=signing.sign(key_of("release"), release.TAG, data)
    )
    with pytest.raises(Refused, match="canonical"):
        verify(changed, public("release"))


def test_a_manifest_with_a_field_twice_is_refused_though_signed(files):
    data = files.manifest[:-1] + b',"number":1}'
    changed = replace(
        files, manifest=data, signature=signing.sign(key_of("release"), release.TAG, data)
    )
    with pytest.raises(Refused):
        verify(changed, public("release"))


def test_a_huge_manifest_is_refused_by_its_size_alone():
    with pytest.raises(Refused) as caught:
        Manifest.from_bytes(b"[" * (release.MANIFEST_LIMIT_BYTES + 1))
    assert caught.value.reason == "size"


def test_a_deeply_nested_manifest_is_refused():
    with pytest.raises(Refused):
        Manifest.from_bytes(b"[" * 200_000)
    with pytest.raises(Refused):
        Evidence.from_bytes(b'{"rounds":' + b"[" * 200_000)


@SLOW
@given(st.binary(max_size=300))
def test_noise_is_never_a_manifest_nor_evidence_nor_an_archive(data):
    for parse in (Manifest.from_bytes, Evidence.from_bytes, unpack):
        with pytest.raises(Refused):
            parse(data)


def test_a_refusal_never_quotes_the_manifest(files):
    content = json.loads(files.manifest)
    content["secret-name"] = "Jane Doe"
    with pytest.raises(Refused) as caught:
        Manifest.from_bytes(canonical.encode(content))
    assert "Jane" not in str(caught.value)
    assert "secret-name" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_though_signed(make):
    import numpy as np
    from release_stand_ins import small_model

    config, weights = small_model()
    weights["trunk"][0, 0] = np.nan
    with pytest.raises(Refused, match="finite"):
        make(model=(config, weights))


# ---------------------------------------------------------------- files


def test_an_archive_holds_the_same_release_and_equal_releases_give_equal_bytes(files, tmp_path):
    write_copy(tmp_path / "a.fedprint", files)
    assert read_release(tmp_path / "a.fedprint") == files
    assert (tmp_path / "a.fedprint").read_bytes() == pack(files)


@SLOW
@given(data=st.data())
def test_every_flipped_bit_of_an_archive_is_refused(files, data):
    packed = pack(files)
    at = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(Refused):
        verify(unpack(flipped(packed, at, data.draw(st.integers(0, 7)))), public("release"))


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "manifest.json/../x", "x"])
def test_an_archive_with_a_path_of_its_own_is_refused(files, name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for part, data in sorted(parts_of(files).items()):
            member = tarfile.TarInfo(name if part == "manifest.json" else part)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(Refused):
        unpack(stream.getvalue())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_a_link_or_device_is_refused(files, kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("manifest.json")
        member.type = kind
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(Refused):
        unpack(stream.getvalue())


def test_a_folder_with_a_link_in_it_is_refused(files, tmp_path):
    write_release(tmp_path / "r", files)
    (tmp_path / "elsewhere").write_bytes(files.manifest)
    (tmp_path / "r" / "manifest.json").unlink()
    (tmp_path / "r" / "manifest.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused) as caught:
        read_release(tmp_path / "r")
    assert caught.value.reason == "files"


def test_a_link_to_a_release_is_refused(files, tmp_path):
    write_release(tmp_path / "r", files)
    (tmp_path / "link").symlink_to(tmp_path / "r")
    with pytest.raises(Refused):
        read_release(tmp_path / "link")


def test_a_pipe_in_a_folder_is_refused_without_waiting(files, tmp_path):
    import os

    write_release(tmp_path / "r", files)
    (tmp_path / "r" / "manifest.sig").unlink()
    os.mkfifo(tmp_path / "r" / "manifest.sig")
    with pytest.raises(Refused):
        read_release(tmp_path / "r")


def test_a_foreign_or_missing_file_is_refused(files, tmp_path):
    write_release(tmp_path / "r", files)
    (tmp_path / "r" / "extra.txt").write_text("x")
    with pytest.raises(Refused):
        read_release(tmp_path / "r")
    (tmp_path / "r" / "extra.txt").unlink()
    (tmp_path / "r" / "evidence.json").unlink()
    with pytest.raises(Refused):
        read_release(tmp_path / "r")


def test_a_file_beyond_its_limit_is_refused_before_it_is_parsed(files, tmp_path):
    write_release(tmp_path / "r", files)
    with (tmp_path / "r" / "manifest.json").open("r+b") as stream:
        stream.truncate(release.MANIFEST_LIMIT_BYTES + 1)
    with pytest.raises(Refused) as caught:
        read_release(tmp_path / "r")
    assert caught.value.reason == "size"


def test_a_release_is_never_overwritten_and_nothing_is_left_half_written(
    files, tmp_path, monkeypatch
):
    write_release(tmp_path / "r", files)
    with pytest.raises(OurMistake):
        write_release(tmp_path / "r", files)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared_model.release_files.os.rename", full)
    with pytest.raises(OSError, match="No space"):
        write_release(tmp_path / "s", files)
    assert sorted(path.name for path in tmp_path.iterdir() if "coordinator" not in path.name) == [
        "r"
    ]


def test_a_missing_release_says_so(tmp_path):
    with pytest.raises(OurMistake, match="no release"):
        read_release(tmp_path / "nowhere")


def test_the_signer_is_read_from_digits_or_from_a_pinned_file(tmp_path):
    from release_stand_ins import invitation

    (tmp_path / "coordinator.json").write_bytes(invitation(tmp_path))
    assert read_signer(public("release").hex()) == public("release")
    assert read_signer(str(tmp_path / "coordinator.json")) == public("release")
    with pytest.raises(OurMistake):
        read_signer("nonsense")
    (tmp_path / "false.json").write_text('{"release_key": "00"}')
    with pytest.raises(PeerFault):
        read_signer(str(tmp_path / "false.json"))


def test_the_code_digest_sees_every_source_file_and_nothing_else(tmp_path):
    for name in ("auditor", "client", "server", "shared_model", "simulations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    first = code_digest(tmp_path)
    (tmp_path / "client" / "__pycache__").mkdir()
    (tmp_path / "client" / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / "README.md").write_text("x")
    assert code_digest(tmp_path) == first
    (tmp_path / "client" / "b.py").write_text("")
    assert code_digest(tmp_path) != first
    (tmp_path / "client" / "b.py").unlink()
    (tmp_path / "server" / "a.py").write_text("x = 2\n")
    assert code_digest(tmp_path) != first


def test_epsilon_is_never_printed_alone(files):
    manifest = verify(files, public("release")).manifest
    told = " ".join(words(manifest))
    for word in ("epsilon", "delta", release.UNIT, "trust model 'local'", "Not a medical device"):
        assert word in told
    assert "learned the sum of the hospitals' noised updates and no single one" in told


def test_a_key_that_the_manifest_does_not_name_cannot_seal_it(files):
    with pytest.raises(OurMistake):
        release_signed.seal(Manifest.from_bytes(files.manifest), key_of("mallory"))


def test_releases_of_a_path_are_plain_files(files, tmp_path: Path):
    write_release(tmp_path / "r", files)
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(parts_of(files))
