"""JSON logs with rotation, of our own processes and of those that only append to a file."""

from __future__ import annotations

import datetime
import json
import logging
import logging.handlers
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LOG_BYTES = 10 * 2**20
LOG_FILES = 5


@contextmanager
def json_log(path: Path, *, beside: logging.Handler | None = None) -> Iterator[logging.Logger]:
    """A log of one JSON object a line, in `path` and its older files.

    log.info("child-ended", extra={"told": {"child": "registry", "code": -9}})

    Args:
        beside: gets the same lines (standard error of a service).
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    log = logging.Logger(f"fedprint.{path.stem}", logging.INFO)  # its own, of no hierarchy
    for handler in (file, beside):
        if handler is not None:
            handler.setFormatter(JsonLines())
            log.addHandler(handler)
    try:
        yield log
    finally:
        file.close()


class JsonLines(logging.Formatter):
    """{"time", "event", ...what was told}; an exception's last line under "fault"."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        told = getattr(record, "told", None)
        if isinstance(told, Mapping):
            line.update(told)
        if record.exc_info:
            line["fault"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def put_aside(path: Path, most_bytes: int = LOG_BYTES, files: int = LOG_FILES) -> bool:
    """Put a log aside that another process appends to, once it is larger than this; whether it was.

    Copied to PATH.1 (older ones move on to PATH.N), then emptied: its writer has it open for
    appending and goes on at the beginning. What it writes between the two is lost.
    """
    try:
        if path.stat().st_size <= most_bytes:
            return False
        for number in range(files - 1, 0, -1):
            old = path.with_name(f"{path.name}.{number}")
            if old.exists():
                old.replace(path.with_name(f"{path.name}.{number + 1}"))
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        with path.open("r+b") as stream:
            stream.truncate(0)
    except OSError:
        return False  # tried again at the next look
    return True
