"""What fedprint code is: files with their digests, and the consortium's signed word for them.

    state = installed()                             # of this installation
    data = seal(statement_of(state), release_key)   # code.json, at the coordinator
    statement = open_statement(data, release_key)   # at a hospital

A code digest (`release_files.code_digest`) follows from the digest of each file, so that whoever
knows these can check that they belong to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_model import canonical, protocol, protocol_base, signing
from shared_model.errors import FedprintError, PeerFault, Refused
from shared_model.protocol import Digest, ShortText
from shared_model.release_files import code_files, digest_of_files

MAX_BYTES = 1024 * 1024
"""Largest code.json, and largest source file whose text is kept."""
MAX_FILES = 5000
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,199}$")]


@dataclass(frozen=True)
class CodeState:
    """One state of the code.

    version: of the package. files: SHA-256 by name. texts: content of those that are text.
    """

    version: str
    files: Mapping[str, str]
    texts: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str:
        """The code digest."""
        return digest_of_files(self.files)


def installed() -> CodeState:
    """What is installed here, read now."""
    found = code_files()
    texts = {name: text for name, data in found.items() if (text := text_of(data)) is not None}
    return CodeState(
        version=protocol.software().removeprefix("fedprint "),
        files={name: canonical.digest(data) for name, data in found.items()},
        texts=texts,
    )


def text_of(data: bytes) -> str | None:
    """The text of a source file, None if it is none or too large."""
    if len(data) > MAX_BYTES or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


class CodeStatement(BaseModel):
    """code.json: the consortium published this code. Signed by its release key.

    files: SHA-256 by name, of which the digest follows. protocol: version that the code speaks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["code-statement"] = "code-statement"
    format: Literal[1] = 1
    version: ShortText
    protocol: Annotated[int, Field(ge=1, le=protocol_base.MAX_VERSION)]
    code_digest: Digest
    files: Annotated[dict[FileName, Digest], Field(min_length=1, max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _fits(self) -> CodeStatement:
        if digest_of_files(self.files) != self.code_digest:
            raise ValueError("the code digest does not follow from the files")
        return self


def statement_of(state: CodeState) -> CodeStatement:
    """What the release key signs about a state."""
    return CodeStatement(
        version=state.version,
        protocol=protocol_base.VERSION,
        code_digest=state.digest,
        files=dict(state.files),
    )


def seal(statement: CodeStatement, key: Ed25519PrivateKey) -> bytes:
    """The file's bytes: the fields and `signature`."""
    return signing.signed_document(statement.kind, statement.model_dump(mode="json"), key)


def open_statement(data: bytes, release_key: bytes) -> CodeStatement:
    """Read code.json.

    Raises:
        PeerFault: of "coordinator": no such file, or not signed by this release key.
    """
    ask = "Ask the operator for the file again: fedprint-coordinator code sign"
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        document: dict[str, Any] = json.loads(data)
        signature = bytes.fromhex(document.pop("signature"))
        statement = CodeStatement.model_validate_json(json.dumps(document))
        content = canonical.encode(statement.model_dump(mode="json"))
        signing.verify(release_key, statement.kind, content, signature)
    except Refused as error:
        raise PeerFault(
            "The statement about the code is not signed by the consortium's release key.",
            site="coordinator",
            do=ask,
        ) from error
    except (
        ValidationError,
        FedprintError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise PeerFault(
            "This is not a statement about code.", site="coordinator", do=ask
        ) from error
    return statement
