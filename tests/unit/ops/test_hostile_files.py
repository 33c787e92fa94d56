"""Files that somebody else has put there: read once, or refused in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared_model.errors import Refused
from shared_model.files import read_regular


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(Refused) as error:
        read_regular(path, 4)
    assert error.value.reason == "size"


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "absent"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    """A folder too, which `open` itself has another error for; nothing stays open."""
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path)
    elif kind == "pipe":
        os.mkfifo(path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused) as error:
        read_regular(path, 10)
    assert error.value.reason == "files"
    assert ("absent" in error.value.message) == (kind == "absent")
    assert ("link" in error.value.message) == (kind == "link")
    assert len(os.listdir("/proc/self/fd")) == before
