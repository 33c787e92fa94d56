"""Approval of installed code: what is shown, what is kept, what then may train."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client import approved_code, cli, cli_node
from client.home import NodeHome
from client.policy import Policy, installed_code
from server import cli_code, cli_root, cli_run
from server.home import CoordinatorHome
from shared_model import canonical, code, signing
from shared_model.code import CodeState
from shared_model.code_difference import as_diff, difference
from shared_model.errors import OurMistake, PeerFault, Refused

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RUNNER = CliRunner()


def state(version: str = "0.1.0", **texts: str) -> CodeState:
    """A small state of the code: NAME of client/NAME.py -> text."""
    named = {f"client/{name}.py": text for name, text in texts.items()}
    files = {name: canonical.digest(text.encode()) for name, text in named.items()}
    return CodeState(version=version, files=files, texts=named)


OLD = state(app="a\nb\nc\n", old="x\n", same="s\n")
NEW = state("0.2.0", app="a\nB\nc\nd\n", new="y\n", same="s\n")


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    place = NodeHome(tmp_path / "node")
    cli_node.init("north", 437, place.root)
    return place


@pytest.fixture
def is_installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(found: CodeState) -> None:
        monkeypatch.setattr(code, "installed", lambda: found)

    install(OLD)
    return install


def approve(home: NodeHome, found: CodeState, *more: str, answer: str = "y\n") -> Any:
    words = ["approve", found.digest, "--home", str(home.root), *more]
    return RUNNER.invoke(cli.app, words, input=answer)


def test_the_installed_state_has_the_installed_digest() -> None:
    """The digest that approvals list is the one that rounds are held against."""
    assert code.installed().digest == installed_code()


def test_the_difference_names_files_and_counts_lines() -> None:
    """Added, removed, changed; lines where both texts are known."""
    found = difference(OLD, NEW)
    assert found.added == ("client/new.py",)
    assert found.removed == ("client/old.py",)
    assert found.changed == ("client/app.py",)
    assert found.lines == {"client/app.py": (2, 1)}
    lines = list(as_diff(OLD, NEW))
    assert {"-b", "+B", "+d", "-x", "+y"} <= set(lines)
    assert not any("same" in line for line in lines)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text("xy\n", max_size=8)),
    st.dictionaries(st.sampled_from("abcdef"), st.text("xy\n", max_size=8)),
)
def test_a_difference_is_empty_if_and_only_if_the_digests_are_equal(
    old: dict[str, str], new: dict[str, str]
) -> None:
    """Nothing that changes the digest goes unshown."""
    before, after = state(**old), state(**new)
    found = difference(before, after)
    shown = found.added + found.removed + found.changed
    assert bool(shown) == (before.digest != after.digest)


def test_a_file_without_text_is_named_in_the_diff() -> None:
    """Weights, images."""
    files = {**OLD.files, "client/blob": "ab" * 32}
    with_blob = CodeState("0.1.0", files, OLD.texts)
    assert list(as_diff(OLD, with_blob)) == ["client/blob: not text, or its text was not kept"]


def test_nothing_approved_leaves_the_policy_as_it_is(home: NodeHome) -> None:
    """As before: whatever is installed may train."""
    assert Policy.from_file(home.policy).allowed_code_digests == ()
    assert "whatever is installed" in approved_code.standing(home, OLD.digest)


def test_a_first_approval_shows_what_is_there_and_lists_it(
    home: NodeHome, is_installed: Any
) -> None:
    """From then on other code is refused, with the command to type; policy.toml is left alone."""
    before = home.policy.read_bytes()
    done = approve(home, OLD)
    assert done.exit_code == 0, done.output
    assert "fedprint 0.1.0" in done.output
    assert "Nobody signed this code" in done.output
    assert "nothing to compare" in done.output
    assert Policy.from_file(home.policy).allowed_code_digests == (OLD.digest,)
    assert approved_code.standing(home, OLD.digest) == "approved"
    assert f"fedprint-node approve {NEW.digest}" in approved_code.standing(home, NEW.digest)
    assert home.policy.read_bytes() == before


def test_an_upgrade_shows_what_differs_from_the_last_approved(
    home: NodeHome, is_installed: Any
) -> None:
    """Names and counts; every line on request."""
    approve(home, OLD)
    is_installed(NEW)
    done = approve(home, NEW, "--diff")
    assert "Approved last: fedprint 0.1.0" in done.output
    assert "1 files changed, 1 added, 1 removed" in done.output
    assert "\n+B" in done.output
    assert Policy.from_file(home.policy).allowed_code_digests == (OLD.digest, NEW.digest)
    assert approved_code.last_copy(home) == NEW


def test_no_is_no(home: NodeHome, is_installed: Any) -> None:
    """Nothing is listed, nothing is copied."""
    done = approve(home, OLD, answer="n\n")
    assert isinstance(done.exception, Refused)
    assert not (home.root / "code").exists()


def test_code_that_is_not_installed_cannot_be_approved(home: NodeHome, is_installed: Any) -> None:
    """It could not be shown."""
    done = approve(home, NEW)
    assert isinstance(done.exception, Refused)
    assert done.exception.reason == "another-code"


def test_json_alone_approves_nothing(home: NodeHome, is_installed: Any) -> None:
    """Looking is not saying yes."""
    shown = json.loads(approve(home, OLD, "--json").output)
    assert shown["approved"] is False
    assert not Policy.from_file(home.policy).allowed_code_digests
    shown = json.loads(approve(home, OLD, "--json", "--yes").output)
    assert shown["approved"] is True
    assert Policy.from_file(home.policy).allowed_code_digests == (OLD.digest,)


def joined(tmp_path: Path, home: NodeHome) -> CoordinatorHome:
    place = CoordinatorHome(tmp_path / "coordinator")
    cli_root.init(tmp_path / "root")
    cli_run.init(place.root, "127.0.0.1:8443", root=tmp_path / "root" / "root.json")
    cli_run.invitation(tmp_path / "coordinator.json", place.root)
    cli_node.join(tmp_path / "coordinator.json", home.root, yes=True)
    return place


def test_the_release_keys_statement_is_said(
    tmp_path: Path, home: NodeHome, is_installed: Any
) -> None:
    """Operator signs, hospital reads who signed."""
    operator = joined(tmp_path, home)
    cli_code.sign(tmp_path / "code.json", home=operator.root)
    done = approve(home, OLD, "--statement", str(tmp_path / "code.json"))
    assert "Signed by the consortium's release key." in done.output
    assert approved_code.approved(home.root).approved[0].signer == approved_code.RELEASE_KEY


def test_a_statement_of_another_key_or_about_other_code_is_refused(
    tmp_path: Path, home: NodeHome, is_installed: Any
) -> None:
    """A wrong signature is not the same as none."""
    operator = joined(tmp_path, home)
    path = tmp_path / "code.json"
    path.write_bytes(code.seal(code.statement_of(OLD), KEY))
    assert isinstance(approve(home, OLD, "--statement", str(path)).exception, PeerFault)
    key = signing.load_key_file(operator.release_key)
    path.write_bytes(code.seal(code.statement_of(NEW), key))
    done = approve(home, OLD, "--statement", str(path))
    assert isinstance(done.exception, PeerFault)
    assert "0.2.0" in str(done.exception)
    assert not (home.root / "code").exists()


def test_a_statement_whose_files_do_not_make_its_digest_is_none() -> None:
    """Even with a good signature."""
    statement = code.statement_of(OLD)
    lying = statement.model_copy(update={"code_digest": "ab" * 32})
    with pytest.raises(PeerFault, match="not a statement"):
        code.open_statement(code.seal(lying, KEY), signing.public_bytes(KEY))


@given(st.binary(max_size=300))
def test_no_bytes_of_anybody_else_are_a_statement(data: bytes) -> None:
    """Always one fault of a peer, never another exception."""
    with pytest.raises(PeerFault):
        code.open_statement(data, signing.public_bytes(KEY))


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_turned_bit_makes_a_statement_worthless(place: int, bit: int) -> None:
    """Or changes nothing that it says (white space of its JSON)."""
    good = code.seal(code.statement_of(OLD), KEY)
    turned = bytearray(good)
    turned[place % len(good)] ^= 1 << bit
    try:
        found = code.open_statement(bytes(turned), signing.public_bytes(KEY))
    except PeerFault:
        return
    assert found == code.statement_of(OLD)


@pytest.mark.parametrize("damage", ["{}x", '{"format": 2}', '{"approved": ["ab"]}', "\xff"])
def test_a_damaged_list_stops_training(home: NodeHome, damage: str) -> None:
    """Never taken for an empty one, which would allow everything."""
    (home.root / "code").mkdir()
    (home.root / "code" / "approved.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(OurMistake, match="damaged"):
        Policy.from_file(home.policy)


def test_a_copy_that_is_not_what_its_name_says_is_not_compared_with(
    home: NodeHome, is_installed: Any
) -> None:
    """Lost, torn, changed, of other code, too large: said, with how to go on."""
    approve(home, OLD)
    approved_code.approve(home, NEW, None, "2026-11-28")
    copy, other = (home.root / "code" / f"{one.digest}.zip" for one in (OLD, NEW))
    good = copy.read_bytes()
    for damaged in (b"", good[:-30], good.replace(b"client/same", b"client/game"), None):
        copy.write_bytes(other.read_bytes() if damaged is None else damaged)
        with pytest.raises(OurMistake, match="absent or damaged"):
            approved_code.read_copy(home, OLD.digest)
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files.json", bytes(2 * code.MAX_BYTES))
    with pytest.raises(OurMistake, match="--without-comparison"):
        approved_code.read_copy(home, OLD.digest)
    copy.unlink()
    with pytest.raises(OurMistake):
        approved_code.read_copy(home, OLD.digest)


def test_a_lost_copy_does_not_lock_the_hospital_out(home: NodeHome, is_installed: Any) -> None:
    """Approval goes on without a comparison when the operator says so."""
    approve(home, OLD)
    (home.root / "code" / f"{OLD.digest}.zip").unlink()
    is_installed(NEW)
    assert isinstance(approve(home, NEW).exception, OurMistake)
    assert approve(home, NEW, "--without-comparison").exit_code == 0
    assert approved_code.last_copy(home) == NEW


def test_an_approved_state_reads_back_as_it_was(home: NodeHome) -> None:
    """The whole installed package, as a hospital keeps it."""
    whole = code.installed()
    approved_code.approve(home, whole, None, "2026-11-28")
    kept = approved_code.last_copy(home)
    assert kept == whole
    assert kept is not None
    assert difference(kept, whole).words.startswith("0 files changed")


def test_status_says_what_to_type(home: NodeHome, is_installed: Any) -> None:
    """For the person who wonders why nothing is trained after an upgrade."""
    approve(home, OLD)
    done = RUNNER.invoke(cli.app, ["status", "--json", "--home", str(home.root)])
    assert json.loads(done.output)["code"] == (
        f"NOT APPROVED: nothing is trained. fedprint-node approve {installed_code()}"
    )


@pytest.mark.parametrize("module", ["client.cli", "server.cli", "auditor.cli", "simulations.cli"])
def test_every_command_says_package_protocol_and_code(module: str) -> None:
    """`--version`, three lines."""
    import importlib

    done = RUNNER.invoke(importlib.import_module(module).app, ["--version"])
    assert done.exit_code == 0
    first, second, third = done.output.splitlines()
    assert first.startswith("fedprint ")
    assert second == "protocol 5"
    assert third == f"code {installed_code()}"


@pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85"])
def test_a_line_that_moved_into_a_comment_is_shown(end: str) -> None:
    """Python reads on at these characters, so that the check is gone."""
    before, after = state(app="# careful\ncheck()\n"), state(app=f"# careful{end}check()\n")
    assert difference(before, after).lines == {"client/app.py": (1, 2)}
    assert "-check()" in list(as_diff(before, after))


def test_no_code_moves_the_cursor_of_who_reads_it(home: NodeHome, is_installed: Any) -> None:
    """Nor turns the direction of what is read: it would hide what it does."""
    approve(home, OLD)
    hidden = state("0.2.0", app="a\nsend_all()\x1b[1A\x1b[2K\nc\n# \u202e\rx\n")
    is_installed(hidden)
    said = approve(home, hidden, "--diff").stdout
    assert "+send_all()\\x1b[1A\\x1b[2K" in said
    assert not any(sign in said for sign in ("\x1b[2K", "\u202e", "\r"))
