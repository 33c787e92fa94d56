"""fedprint-node approve: what code is installed, who signed it, what it changes, yes or no."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from shared_model.code import CodeState, CodeStatement

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; approves nothing without --yes.")]
SHOWN_FILES = 40


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(approve)


def approve(
    digest: Annotated[
        str, typer.Argument(help="Code digest, as `fedprint-node --version` prints it.")
    ],
    home: Home = None,
    statement: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="code.json of the operator: who signed this code."),
    ] = None,
    full: Annotated[bool, typer.Option("--diff", help="Print every changed line.")] = False,
    without_comparison: Annotated[
        bool,
        typer.Option(
            "--without-comparison", help="The copy of the code approved last is lost; go on."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="It was read already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the installed code: version, signer, what differs from the last approved. Then approve.

    From the first approval on, other code trains nothing here until it is approved.

    Example: fedprint-node approve 3f9a... --statement code.json
    """
    from client import approved_code, keys
    from shared_model import code

    place = NodeHome.find(home)
    keys.load_config(place)
    state = code.installed()
    if digest != state.digest:
        raise Refused(
            "This is not the digest of the code that is installed here, which is "
            f"{state.digest} (fedprint {state.version}).",
            reason="another-code",
            do="Install the code that you mean to approve; what is not here cannot be shown.",
        )
    said = None if statement is None else _opened(place, statement)
    signer = approved_code.signer_of(said, state)
    old = None if without_comparison else approved_code.last_copy(place)
    facts = _facts(state, old, signer)
    if as_json:
        approved = state.digest in approved_code.approved(place.root).digests
        if yes:
            approved_code.approve(place, state, said, _today())
        terminal.print_json({**facts, "approved": approved or yes})
        return
    _print(_in_words(facts, state, old, full=full))
    if not yes and not typer.confirm("May this code train at this hospital?"):
        raise Refused("The code was not approved.", reason="not-approved")
    approved_code.approve(place, state, said, _today())
    _print(["Approved. Other code than what is approved trains nothing here."])


def _opened(place: NodeHome, path: Path) -> CodeStatement:
    from client import keys
    from shared_model import code
    from shared_model.files import read_regular

    return code.open_statement(read_regular(path, code.MAX_BYTES), keys.pinned(place).release)


def _facts(state: CodeState, old: CodeState | None, signer: str | None) -> dict[str, Any]:
    from shared_model import protocol_base
    from shared_model.code_difference import difference

    facts: dict[str, Any] = {
        "code_digest": state.digest,
        "version": state.version,
        "protocol": protocol_base.VERSION,
        "files": len(state.files),
        "signer": signer,
        "last_approved": None if old is None else {"digest": old.digest, "version": old.version},
    }
    if old is not None:
        found = difference(old, state)
        facts["difference"] = {
            "words": found.words,
            "added": list(found.added),
            "removed": list(found.removed),
            "changed": {name: found.lines.get(name) for name in found.changed},
        }
    return facts


def _in_words(
    facts: dict[str, Any], state: CodeState, old: CodeState | None, *, full: bool
) -> list[str]:
    from shared_model.code_difference import as_diff

    signer = facts["signer"]
    lines = [
        f"fedprint {state.version}, protocol version {facts['protocol']}, {len(state.files)} files",
        f"code digest {state.digest}",
        f"Signed by {signer}." if signer else "Nobody signed this code (no --statement was given).",
    ]
    if old is None:
        return [*lines, "No code was approved here before; there is nothing to compare it with."]
    found = facts["difference"]
    lines.append(f"Approved last: fedprint {old.version}, {old.digest}")
    lines.append(f"Since then: {found['words']}.")
    if full:
        return [*lines, *as_diff(old, state)]
    listed = [f"  added    {name}" for name in found["added"]]
    listed += [f"  removed  {name}" for name in found["removed"]]
    for name, count in found["changed"].items():
        listed.append(
            f"  changed  {name}" + ("" if count is None else f"  +{count[0]} -{count[1]}")
        )
    if len(listed) > SHOWN_FILES:
        rest = len(listed) - SHOWN_FILES
        listed = [*listed[:SHOWN_FILES], f"  and {rest} more; all of it with --diff"]
    return [*lines, *listed, "Every changed line: --diff"]


def standing(place: NodeHome, code: str) -> str:
    """For `status`."""
    from client import approved_code

    try:
        return approved_code.standing(place, code)
    except OurMistake as error:
        return str(error)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _print(lines: list[str]) -> None:
    from shared_model.code_difference import visible

    for line in map(visible, lines):
        terminal.out.print(line, soft_wrap=True, highlight=False)
