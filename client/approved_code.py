"""Which code this hospital has approved, and a copy of it to show what an upgrade changes.

    code/approved.json   digests in the order of approval, with day, version and signer
    code/DIGEST.zip      names and digests of all files, and the text of those that are text

A copy is checked whenever it is read: its file digests must give its name. `Policy.from_file` adds
the digests to `allowed_code_digests`; policy.toml itself is edited by people only.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.home import NodeHome
from shared_model import canonical
from shared_model.code import MAX_BYTES, MAX_FILES, CodeState, CodeStatement
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.protocol import Digest, ShortText

FOLDER = "code"
APPROVED = "approved.json"
COMMAND = "fedprint-node approve"
MAX_APPROVALS = 100
_LIST_BYTES = 64 * 1024
_COPY_BYTES = 32 * 1024 * 1024
_FILES = "files.json"
_DATE = (1980, 1, 1, 0, 0, 0)
RELEASE_KEY = "the consortium's release key"


class Approval(BaseModel):
    """One digest that was approved. signer: None if nobody signed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: Digest
    version: ShortText
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    signer: Literal["the consortium's release key"] | None


class ApprovedCode(BaseModel):
    """approved.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    approved: Annotated[tuple[Approval, ...], Field(max_length=MAX_APPROVALS)] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(one.digest for one in self.approved)


def approved(folder: Path) -> ApprovedCode:
    """What was approved in this node's folder.

    Raises:
        OurMistake: the file is damaged.
    """
    path = folder / FOLDER / APPROVED
    if not path.exists():
        return ApprovedCode()
    try:
        return ApprovedCode.model_validate_json(read_regular(path, _LIST_BYTES))
    except (Refused, ValidationError) as error:
        raise OurMistake(
            f"The list of approved code {path} is damaged; nothing is trained until it is valid.",
            do=f"Remove it and approve the installed code again: {COMMAND} DIGEST",
        ) from error


def last_copy(home: NodeHome) -> CodeState | None:
    """The state that was approved last; None if none was.

    Raises:
        OurMistake: as `approved`, or its copy is absent or damaged.
    """
    found = approved(home.root).approved
    return None if not found else read_copy(home, found[-1].digest)


def signer_of(
    statement: CodeStatement | None, state: CodeState
) -> Literal["the consortium's release key"] | None:
    """Who signed this state, given the statement that was verified with the release key.

    Raises:
        PeerFault: the statement is about other code.
    """
    if statement is None:
        return None
    if statement.code_digest != state.digest or statement.version != state.version:
        raise PeerFault(
            f"The statement is about fedprint {statement.version}, code "
            f"{statement.code_digest[:16]}; installed is {state.version}, {state.digest[:16]}.",
            site="coordinator",
            do="Ask the operator for the statement about what is installed here, or install what "
            "it is about.",
        )
    return "the consortium's release key"


def approve(home: NodeHome, state: CodeState, statement: CodeStatement | None, day: str) -> None:
    """Keep a copy and list the digest. The same digest again moves it to the end.

    Raises:
        OurMistake: the list is damaged or full.
        PeerFault: the statement is about other code.
    """
    one = Approval(
        digest=state.digest,
        version=state.version,
        day=day,
        signer=signer_of(statement, state),
    )
    others = tuple(old for old in approved(home.root).approved if old.digest != state.digest)
    if len(others) >= MAX_APPROVALS:
        raise OurMistake(
            f"{MAX_APPROVALS} states of the code are approved.",
            do=f"Take old ones out of {home.root / FOLDER / APPROVED}.",
        )
    _write_copy(home, state)
    listed = ApprovedCode(approved=(*others, one)).model_dump(mode="json")
    path = home.root / FOLDER / APPROVED
    write_atomic(path, (json.dumps(listed, indent=1) + "\n").encode(), mode=0o600)


def read_copy(home: NodeHome, digest: str) -> CodeState:
    """A state that was approved, from its copy.

    Raises:
        OurMistake: absent, damaged, or not what its name says.
    """
    path = home.root / FOLDER / f"{digest}.zip"
    try:
        state = _unpacked(read_regular(path, _COPY_BYTES))
        if state.digest != digest:
            raise ValueError("another digest")
    except (FedprintError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError) as error:
        raise _damaged(path) from error
    return state


def _damaged(path: Path) -> OurMistake:
    return OurMistake(
        f"The copy of the code that was approved last, {path}, is absent or damaged.",
        do="Bring it back from a backup, or approve without a comparison: --without-comparison",
    )


def _unpacked(data: bytes) -> CodeState:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_FILES or sum(one.file_size for one in entries) > _COPY_BYTES:
            raise ValueError("too large")
        texts = {one.filename: _member(archive, one) for one in entries}
    head = json.loads(texts.pop(_FILES))
    files = {str(name): str(value) for name, value in head["files"].items()}
    for name, text in texts.items():
        if files[name] != canonical.digest(text.encode()):
            raise ValueError("a text is another one")
    return CodeState(version=str(head["version"]), files=files, texts=texts)


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    with archive.open(entry) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("a file is too large")
    return data.decode()


def _write_copy(home: NodeHome, state: CodeState) -> None:
    buffer = io.BytesIO()
    head = json.dumps({"version": state.version, "files": dict(state.files)}, sort_keys=True)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ((_FILES, head), *state.texts.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    write_atomic(home.root / FOLDER / f"{state.digest}.zip", buffer.getvalue(), mode=0o600)


def standing(home: NodeHome, code: str) -> str:
    """For `status`, doctor and console: whether this code may train here, and what to do.

    Raises:
        OurMistake: there is no valid policy, or the list is damaged.
    """
    from client.policy import Policy

    allowed = Policy.from_file(home.policy).allowed_code_digests
    if code in allowed:
        return "approved"
    if not allowed:
        return f"whatever is installed may train; to approve each upgrade: {COMMAND} {code}"
    return f"NOT APPROVED: nothing is trained. {COMMAND} {code}"
