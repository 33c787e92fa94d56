"""What every message is: strict, of a version, tagged with its kind, mostly of a round of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Version = Literal[3, 4, 5]
VERSION: Version = 5
"""The contract between installations: `version` of every message. See docs/adr/0023."""
OLDEST: Version = 3
"""Is read, too. A message carries the lowest version that has all of its fields: runs that use
nothing newer are the same bytes in all versions since. 4: server moments, proximal weight. 5: what
is trained is "norms", "bottleneck" or "adapters"."""
SPOKEN = ", ".join(str(one) for one in range(OLDEST, VERSION + 1))
SPOKEN = " and ".join(SPOKEN.rsplit(", ", 1))
MAX_VERSION = 1_000_000

RunId = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]


class Strict(BaseModel):
    """Immutable; no unknown field, no value of another type, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Sparse(Strict):
    """What a run does not use is not written, so that runs without it have the bytes of version 3:
    fields of `_UNUSED` that are None."""

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = plain(self)
        return {
            name: value[name] for name in value if name not in _UNUSED or value[name] is not None
        }


_UNUSED = frozenset({"server_moments"})


class SignedMessage(Strict):
    """Base of everything that is sealed; `kind` is the type tag under the signature."""

    kind: str


class RoundMessage(SignedMessage):
    """A message of one round of one run."""

    version: Version = 3
    run: RunId
    round: RoundNumber

    @model_validator(mode="after")
    def _of_its_version(self) -> Self:
        if self.version != self.lowest_version:
            raise ValueError("a message is of the lowest version that has its fields")
        return self

    @property
    def lowest_version(self) -> Version:
        """The first protocol version that has all fields that are used here."""
        return OLDEST
