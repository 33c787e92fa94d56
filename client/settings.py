"""node.toml: who this node is, and how it runs on this machine. Limits of privacy are policy.toml.

    settings = settings_of(home)
    settings.hours.contains(datetime.time(23, 0))

The hospital edits the file; it is read anew at each start, `[training]` also while the node runs.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from client.home import NodeHome
from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake

FIRST = "Run first: fedprint-node init --site NAME --patients N"
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Hours(BaseModel):
    """A span of the day in this machine's local time; it may go over midnight."""

    model_config = ConfigDict(frozen=True)

    begin: datetime.time
    end: datetime.time

    @classmethod
    def of(cls, text: str) -> Hours:
        """From "20:00-06:00".

        Raises:
            ValueError: not of this form, or empty.
        """
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError('hours are written "20:00-06:00"')
        a, b, c, d = (int(part) for part in found.groups())
        begin, end = datetime.time(a, b), datetime.time(c, d)
        if begin == end:
            raise ValueError("these hours are empty; leave the line out for the whole day")
        return cls(begin=begin, end=end)

    def contains(self, time: datetime.time) -> bool:
        """Whether this time of the day is in it; the end is not."""
        if self.begin < self.end:
            return self.begin <= time < self.end
        return time >= self.begin or time < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _hours(value: Any) -> Any:
    return Hours.of(value) if isinstance(value, str) else value


class TrainingSettings(_Frozen):
    """hours: None: the whole day. cores: 0: all. gpus: 0: none. memory_gb: 0: no limit."""

    hours: Annotated[Hours | None, BeforeValidator(_hours)] = None
    cores: Annotated[int, Field(ge=0, le=1024)] = 0
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    memory_gb: Annotated[float, Field(ge=0.0, le=65536.0)] = 0.0


class ConsoleSettings(_Frozen):
    """The page at 127.0.0.1:port. port 0: any free one."""

    enabled: bool = True
    port: Annotated[int, Field(ge=0, le=65535)] = 8450


class StoreSettings(_Frozen):
    """key_file: 32 random bytes that encrypt the window store; "": none. A systemd credential of
    the name fedprint-store-key goes before it."""

    key_file: str = ""


class LogSettings(_Frozen):
    """size_mb: a log file is put aside at this size; kept: how many of those stay."""

    form: Literal["text", "json"] = "json"
    size_mb: Annotated[int, Field(ge=1, le=1024)] = 10
    kept: Annotated[int, Field(ge=1, le=100)] = 5


class NodeSettings(_Frozen):
    """The whole file."""

    site: SiteName
    declared_patients: Annotated[int, Field(ge=1, le=100_000_000)]
    training: TrainingSettings = TrainingSettings()
    console: ConsoleSettings = ConsoleSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()


def settings_of(home: NodeHome) -> NodeSettings:
    """Read node.toml.

    Raises:
        OurMistake: absent, not TOML, an unknown key or a wrong value; says which.
    """
    try:
        content = tomllib.loads(home.config.read_text())
    except FileNotFoundError as error:
        raise OurMistake(f"There is no {home.config}.", do=FIRST) from error
    except (OSError, ValueError) as error:
        raise OurMistake(f"{home.config} is not TOML: {error}.", do="Correct the line.") from error
    try:
        return NodeSettings.model_validate(content)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        words = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: "
            + one["msg"].removeprefix("Value error, ")
            for one in wrong
        )
        raise OurMistake(f"{home.config} is wrong: {words}.", do="Correct the line.") from error


def as_toml(site: str, declared_patients: int) -> str:
    """node.toml as it is first written."""
    return f"""# This node. Privacy limits are in policy.toml.

site = "{site}"
# Seen by the others; fixed when the hospital was enrolled.
declared_patients = {declared_patients}

[training]
# New training begins in these hours only (local time, may go over midnight). Without: always.
# hours = "20:00-06:00"
# CPU cores for training. 0: all.
cores = 0
# GPUs for training, the first ones of this machine. 0: none is used.
gpus = 0
# Memory for training in GB; training that needs more ends, the node goes on. 0: no limit.
memory_gb = 0.0

[console]
# The page for the person at this hospital, at 127.0.0.1 only.
enabled = true
port = 8450

[store]
# File with 32 random bytes that encrypt the window store (fedprint-node data encrypt makes one).
# A systemd credential of the name fedprint-store-key is taken before it.
key_file = ""

[log]
# "json" or "text"; size of a log file in MB before it is put aside, and how many are kept.
form = "json"
size_mb = 10
kept = 5
"""
