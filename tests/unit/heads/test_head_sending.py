"""What leaves with a head: its own files, its own card, nothing without noise, no blank reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_command_stand_ins import app, run, write_fingerprints
from head_stand_ins import made_head
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markdown import Markdown
from typer.testing import CliRunner

from shared_model import canonical, signing
from shared_model.errors import OurMistake, Refused
from shared_model.heads import files
from shared_model.heads.arrays import Head
from shared_model.heads.card import card, with_card
from shared_model.heads.manifest import (
    CARD_IS_MADE,
    FORMAT,
    LIMITS,
    TAG,
    Band,
    Collection,
    Distance,
    Figure,
    Group,
    HeadManifest,
    Privacy,
    Sets,
    Spent,
    Temperature,
    Verification,
    Words,
)
from shared_model.heads.stated import SINCE_FORMAT_4
from simulations import cli_head, cli_head_federate
from simulations.heads.train import plain_words


@pytest.fixture(scope="module")
def head() -> Head:
    """A head of open data."""
    return made_head(open_data="made up for a test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Path:
    """The same on the disk."""
    path = tmp_path_factory.mktemp("heads") / "head"
    files.write(path, head)
    return path


def changed(head: Head, **fields: Any) -> bytes:
    """head.json with other fields, in its canonical spelling."""
    return canonical.encode(json.loads(head.manifest.to_bytes()) | fields)


PRAISE = "# Head: sex\n\nCE-marked class IIa. AUROC 0.99\n"


def with_praise(folder: Path, head: Head, version: int) -> None:
    """The folder's card is praise, and the manifest honestly has its digest."""
    praise = PRAISE.encode()
    fields = json.loads(head.manifest.to_bytes())
    names = () if version == FORMAT else SINCE_FORMAT_4
    fields |= {
        "card_digest": canonical.digest(praise),
        "format": version,
        "figures": [one for one in fields["figures"] if one["name"] not in names],
    }
    for name in {1: ("figures_from", "hidden"), 2: ("hidden",)}.get(version, ()):
        del fields[name]
    (folder / files.CARD).write_bytes(praise)
    (folder / files.MANIFEST).write_bytes(canonical.encode(fields))


def test_card_whose_digest_was_made_to_fit_is_refused(head: Head, tmp_path: Path) -> None:
    """A signer may put any text there; since format 3 the card is made again and compared. Cards of
    older formats were worded otherwise: such a head is read, and passes no border."""
    key, folder = Ed25519PrivateKey.generate(), tmp_path / "head"
    files.write(folder, head)
    for version in range(CARD_IS_MADE, FORMAT + 1):
        with_praise(folder, head, version)
        with pytest.raises(Refused) as caught:
            files.read(folder)
        assert caught.value.reason == "card"
    for version in range(1, CARD_IS_MADE):
        with_praise(folder, head, version)
        body = files.read(folder).manifest.to_bytes()
        (folder / files.SIGNATURE).write_bytes(signing.sign(key, TAG, body))
        for cross in (
            lambda: files.sign(folder, key),
            lambda: files.verify(folder, signing.public_bytes(key)),
        ):
            with pytest.raises(Refused) as caught:
                cross()
            assert caught.value.reason == "format"


def test_card_of_an_older_format_is_said_not_to_be_checked(head: Head, tmp_path: Path) -> None:
    """Whatever it says; by show and by apply, in words and in JSON."""
    folder, words = tmp_path / "head", "NOT CHECKED, made by an earlier version"
    files.write(folder, head)
    path = write_fingerprints(tmp_path / "f.parquet", head)
    for version in (FORMAT, *range(CARD_IS_MADE - 1, 0, -1)):
        if version < FORMAT:
            with_praise(folder, head, version)
        for asked in (["show", str(folder)], ["apply", str(folder), str(path)]):
            assert (run(*asked)["MODEL_CARD.md"] == words) == (version < FORMAT)
            done = CliRunner().invoke(app, ["head", *asked], catch_exceptions=False)
            assert (f"MODEL_CARD.md: {words}" in done.output) == (version < FORMAT)
            assert "CE-marked" not in done.output


def figure(name: str, *values: float | None) -> dict[str, Any]:
    """As the manifest has one."""
    return dict(zip(("name", "value", "low", "high"), (name, *values), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        figure("AUROC", 7.0, 0.647, 0.811),
        figure("AUROC", 7.0, None, None),
        figure("AUROC", 0.7, 0.8, 0.9),
        figure("AUROC", 0.7, 0.5, 0.6),
        figure("AUROC", 0.7, None, 1.5),
        figure("AUROC", 1.0 + 2**-52, None, None),
        figure("accuracy", -0.1, -0.2, 0.3),
        figure("truth in the set, yes", 1.01, 0.9, 1.02),
        figure("answered", 93.0, 90.0, 95.0),
        figure("mean absolute error", -1.0, -2.0, 1.0),
        figure("mean absolute error", 1.0, -2.0, 1.0),
        figure("correlation", -1.5, None, None),
        figure("AUROC of experts", 0.99, 0.98, 1.0),
    ],
)
def test_figure_that_cannot_be_is_refused(head: Head, wrong: dict[str, Any]) -> None:
    """Outside its interval or the range of its kind, or of a kind that no head has; of all patients
    and of a group."""
    with pytest.raises(ValidationError):
        Figure(**wrong)
    for fields in (
        {"figures": [wrong]},
        {"groups": [{"name": "female", "figures": [wrong], "why_none": ""}]},
    ):
        with pytest.raises(Refused) as caught:
            HeadManifest.from_bytes(changed(head, **fields))
        assert caught.value.reason == "manifest"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("classes", ["AUROC", "AUROC"]), ("classes", ["equal error rate"]),
        ("classes", ["correlation"]), ("classes", ["truth in the set, experts"]),
        ("number", ["AUROC"]), ("number", ["truth in the set, yes"]),
        ("number", ["mean absolute error (at most 60)", "mean absolute error (at most 60)"]),
        ("identity", ["accuracy"]), ("identity", ["mean absolute error (at most 60)"]),
    ],
)  # fmt: skip
def test_figure_named_twice_or_of_another_kind_is_refused(kind: str, names: list[str]) -> None:
    """The better of two would be read; the head's own are taken."""
    head = made_head(kind)
    HeadManifest.from_bytes(changed(head, figures=json.loads(head.manifest.to_bytes())["figures"]))
    wrong = [figure(name, 0.5, None, None) for name in names]
    for fields in (
        {"figures": wrong},
        {"groups": [{"name": "female", "figures": wrong, "why_none": ""}]},
    ):
        with pytest.raises(Refused) as caught:
            HeadManifest.from_bytes(changed(head, **fields))
        assert caught.value.reason == "manifest"


def test_figure_of_few_patients_has_an_interval_that_holds_it() -> None:
    """A percentile interval may miss its own value; a head is not refused for that."""
    assert Figure.of("AUROC", 0.9, 0.1, 0.8).high == 0.9
    assert Figure.of("AUROC", 0.05, 0.1, 0.8).low == 0.05
    assert Figure.of("AUROC", 0.5, None, None).low is None


@pytest.mark.parametrize(
    "fields",
    [
        {"limits": "CE-marked medical device class IIa. For diagnosis."},
        {"limits": ""},
        {"open_data": " "},
        {"open_data": "..."},
        {"figures_public": " - "},
        {"hidden": ["temperature"]},
        {"hidden": ["interval"]},
        {"hidden": ["distance", "distance"]},
        {"hidden": ["sets"]},
    ],
)
def test_words_that_are_not_the_makers_to_choose_are_refused(
    head: Head, fields: dict[str, Any]
) -> None:
    """What a head is for is the program's to say; a blank is no reason, and nobody; what noise has
    hidden is something that the head has."""
    with pytest.raises(Refused) as caught:
        HeadManifest.from_bytes(changed(head, **fields))
    assert caught.value.reason == "manifest"


@pytest.mark.parametrize("begin", ["~~~ ", "~~", "# ", "- ", "> ", "+ ", "* ", "=== ", "1. ", "**"])
def test_no_words_of_the_maker_hide_what_a_head_is_not_for(
    head: Head, tmp_path: Path, begin: str
) -> None:
    """A fence swallowed the rest of the card. As it is shown, the words of use come first, whatever
    follows; and what begins like that a manifest does not hold, nor a trained head write."""
    words = f"{begin}approved for diagnosis"
    names = ("about", "figures_of", "figures_public", "open_data")
    hostile = head.manifest.model_copy(update=dict.fromkeys(names, words))
    screen = Console(width=80, file=io.StringIO())
    screen.print(Markdown(card(hostile)))
    shown = " ".join(screen.file.getvalue().split())  # type: ignore[attr-defined]
    assert LIMITS in shown
    assert shown.index(LIMITS) < shown.index("pproved for diagnosis")
    for name in names:
        if begin != "1. ":
            with pytest.raises(Refused):
                HeadManifest.from_bytes(changed(head, **{name: words}))
        plain = HeadManifest.from_bytes(changed(head, **{name: plain_words(words)}))
        files.write(tmp_path / name, Head(with_card(plain), head.arrays))
        done = CliRunner().invoke(app, ["head", "show", str(tmp_path / name)])
        assert LIMITS in " ".join(done.output.split())


def test_words_that_a_command_was_given_are_ones_that_a_manifest_holds() -> None:
    """Paths stay as they are; what begins otherwise is put in brackets, and is no longer for it."""
    for text, kept in {
        "/mnt/heads": "/mnt/heads", "../heads": "../heads", " CC0 1.0 ": "CC0 1.0", " ": "",
        "\u00c4rzte": "?rzte", "~/heads": "?/heads", "- none": "(- none)", "# x" * 300: None,
    }.items():  # fmt: skip
        found = plain_words(text)
        assert kept in (None, found)
        assert len(TypeAdapter(Words).validate_python(found)) <= 600


def test_show_says_whether_there_is_a_signature_and_that_nobody_verified_it(
    folder: Path, tmp_path: Path
) -> None:
    """Any 64 bytes are there as well as a true one."""
    assert run("show", str(folder))["signature"] == "none"
    files.write(tmp_path / "head", files.read(folder))
    (tmp_path / "head" / files.SIGNATURE).write_bytes(b"x" * 64)
    assert run("show", str(tmp_path / "head"))["signature"] == "there, NOT VERIFIED"
    done = CliRunner().invoke(app, ["head", "show", str(tmp_path / "head")])
    assert "signature: there, NOT VERIFIED" in done.output
    assert "head verify" in done.output


@pytest.mark.parametrize("blank", [" ", "\t", "...", "\u4e2d"])
def test_blank_is_no_reason(blank: str, tmp_path: Path) -> None:
    """Why data are open, and who decided, are said in words, before anything is read."""
    out = str(tmp_path / "x")
    for words in (
        ("train", "sex", "-o", out, "--open-data", blank),
        ("federate", "sex", "-o", out, "--open-data", blank),
        ("federate", "sex", "-o", out, "--figures-public", blank),
    ):
        with pytest.raises(OurMistake, match="says nothing"):
            run(*words)


@pytest.mark.parametrize("name", ["report.json", "patients.csv", ".hidden", "more"])
def test_folder_with_more_than_the_head_is_not_signed(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Who sends the folder sends all of it: figures without noise lay there. Plots show what the
    manifest says; what may be sent is said."""
    path, key = tmp_path / "head", tmp_path / "release.key"
    files.write(path, files.read(folder))
    signing.create_key_file(key)
    cli_head.plots(path, files.read(path))
    if name == "more":
        (path / name).mkdir()
    else:
        (path / name).write_text("{}")
    with pytest.raises(OurMistake, match=r"is not for: 1\.") as caught:
        run("sign", str(path), "--key", str(key))
    assert name not in f"{caught.value} {caught.value.do}"  # it may name a patient
    assert not (path / files.SIGNATURE).exists()
    (path / name).rename(tmp_path / name)
    told = run("sign", str(path), "--key", str(key))
    assert told[0]["may_be_sent"].split(", ") == list(files.FILES)


def file(path: Path) -> None:
    """Something."""
    path.write_text("Jane Doe")


def link(path: Path) -> None:
    """To a file that is there."""
    path.symlink_to("reliability.svg")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("patients.csv", file), ("identity.pdf", file), (".hidden", file), ("more", Path.mkdir),
        ("coverage.pdf", link), ("coverage.pdf", Path.mkdir), ("", file), ("", link),
    ],
)  # fmt: skip
def test_plots_that_no_command_draws_are_not_signed(
    folder: Path, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Any file, folder or link in plots, or one that is called so, would be sent with the head."""
    path, key = tmp_path / "head", Ed25519PrivateKey.generate()
    files.write(path, files.read(folder))
    if name:
        cli_head.plots(path, files.read(path))
        (path / "plots" / name).unlink(missing_ok=True)
    make(path / "plots" / name if name else path / "plots")
    with pytest.raises(OurMistake, match="not of the head"):
        files.sign(path, key)
    assert not files.is_signed(path)


@pytest.mark.parametrize("kind", ["classes", "number", "identity"])
def test_plots_that_a_command_draws_are_those_that_may_lie_beside_a_head(
    kind: str, tmp_path: Path
) -> None:
    """All that `head train` leaves can be signed as it is."""
    made, path = made_head(kind, open_data="made up for a test"), tmp_path / "head"
    files.write(path, made)
    drawn = {one.name for plot in cli_head.plots(path, made) for one in plot.files}
    assert drawn == {f"{name}.{form}" for name in files.DRAWN[kind] for form in ("pdf", "svg")}
    files.sign(path, Ed25519PrivateKey.generate())


def test_report_without_noise_lies_beside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner's alone, and never over another; wherever the command is called."""
    monkeypatch.chdir(tmp_path)
    cli_head_federate.write(Path("heads/vt"), made_head(), {"rows": []})
    report = tmp_path / "heads" / "vt.report.json"
    assert report.stat().st_mode & 0o777 == 0o600
    assert {one.name for one in Path("heads/vt").iterdir()} == set(files.FILES) - {files.SIGNATURE}
    for output in ("heads/vt", "heads/vt/", "heads/../heads/vt"):
        assert cli_head_federate.report_file(Path(output)) == report
    (tmp_path / "heads" / "vt" / files.MANIFEST).unlink()
    with pytest.raises(OurMistake, match="there already"):
        run("federate", "vt", "-o", "heads/vt")


CARDS = {
    3: "fb16fd73b0bb701046299083e06d108a7be1b701d4f9dd6adcc3aad8e1779112",
    4: "77c0611cfd2fdd4467f23837e5c1663d8fde60acb8975095606bb574bde991d0",
}
"""Digests by format; what is changed for a new one stays as it was for those of before."""


@pytest.mark.parametrize("version", CARDS)
def test_words_of_the_card_belong_to_the_format(version: int) -> None:
    """Other words for the same manifest, and every head of before is refused: where this fails, and
    the change is wanted, give FORMAT the next number (but for formats that nobody has yet)."""
    heads = {kind: made_head(kind).manifest for kind in ("classes", "number", "identity")}
    fixed: dict[str, Any] = {
        "format": version,
        "task": "x", "about": "x", "packages": {}, "notes": ("x",), "command": "x", "unit": "",
        "figures": (Figure.of("AUROC", 0.7, 0.6, 0.8), Figure.of("false-reject rate", 0.5, 0, 1)),
        "groups": (Group(name="female", figures=(), why_none="few"),), "figures_of": "x",
        "collections": (Collection(name="x", what="x", licence="x", patients=7),),
        "distance": Distance(limit=1.5, level=0.99, beyond=0.01, from_what="x"),
        "temperature": Temperature(
            temperature=1.0, ece_before=0.1, ece_after=0.2, reliability_before=(),
            reliability_after=(), fitted_on="x",
        ),
        "band": Band(level=0.9, half_width=5.0, coverage=0.8),
        "verification": Verification(threshold=0.5, aim="x", curve=()),
        "sets": Sets(
            level=0.9, promise="each class", least=(0.0, 0.5), coverage=0.9, answered=0.5,
            accuracy=0.8, curve=(),
        ),
    }  # fmt: skip
    private = Privacy(
        mode="local", unit="x", noise="system", sample_rate=0.5, noise_multiplier=1.0,
        clipping_norm=1.0, steps=3, threshold=0, colluding=0, words=("x",),
        spent=(Spent(hospital="x", declared_patients=7, epsilon=1.0, delta=1e-5),),
    )  # fmt: skip
    if version >= 4:
        fixed["figures"] += (Figure.of("accuracy", 0.99996, 0.99976, 1.0),)
    told = []
    for manifest in heads.values():
        of_kind = {
            name: value
            for name, value in fixed.items()
            if name not in ("temperature", "sets", "band", "verification")
            or getattr(manifest, name) is not None
        }
        plain = manifest.model_copy(update=of_kind)
        told.append(card(plain))
        told.append(card(plain.model_copy(update={"open_data": "x", "figures_public": "x"})))
        hidden = {"privacy": private, "hidden": ("temperature", "interval", "distance")}
        told.append(card(plain.model_copy(update={**hidden, "figures_from": "noisy histogram"})))
    assert canonical.digest("\n".join(told).encode()) == CARDS[version]


def test_head_of_format_3_is_read_signed_and_verified_as_before(tmp_path: Path) -> None:
    """Its card has the digits of then; one of today's under the same manifest is refused."""
    key, folder = Ed25519PrivateKey.generate(), tmp_path / "head"
    plain = made_head(open_data="made up for a test")
    close = (Figure.of("AUROC", 0.99996, 0.99976, 1.0),)
    fields = {"format": 3, "figures": close, "groups": ()}
    old = Head(with_card(plain.manifest.model_copy(update=fields)), plain.arrays)
    files.write(folder, old)
    assert "| AUROC | 1.000 | 1.000 to 1.000 |" in (folder / files.CARD).read_text()
    files.sign(folder, key)
    found = files.verify(folder, signing.public_bytes(key))
    assert found.manifest == old.manifest
    assert files.card_words(found.manifest) == "as made from the manifest"
    todays = card(old.manifest.model_copy(update={"format": FORMAT}))
    (folder / files.CARD).write_text(todays)
    with pytest.raises(Refused) as caught:
        files.read(folder)
    assert caught.value.reason == "card"


def test_card_shows_the_digits_that_an_interval_needs(head: Head) -> None:
    """As the screen does: 1.000 with 1.000 to 1.000 stood in the card of a head whose screen said
    0.9998 to 1.0000."""
    number = made_head("number").manifest
    shown = (
        (head.manifest, Figure.of("AUROC", 0.99996, 0.99976, 1.0), "1.0000 | 0.9998 to 1.0000"),
        (head.manifest, Figure.of("AUROC", 1.0, None, None), "1.000 | not estimable"),
        (number, Figure.of("correlation", 0.0, -4e-4, 3e-4), "0.0000 | -0.0004 to 0.0003"),
        (number, Figure.of("correlation", -4e-4, None, None), "0.000 | not estimable"),
    )
    for manifest, one, row in shown:
        group = Group(name="female", figures=(one,), why_none="")
        made = card(manifest.model_copy(update={"figures": (one,), "groups": (group,)}))
        assert made.count(f"| {one.name} | {row} |") == 2
