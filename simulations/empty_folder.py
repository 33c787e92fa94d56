"""Where Ray is started.

Ray puts the working directory on the path of its workers; a folder named `client/` lying there was
executed in place of the installed package. So the process changes to an empty folder first.

Ray leaves open files in cycles of garbage. They are collected here: later, they would be some other
code's ResourceWarning (a test that never heard of Ray failed by it).
"""

from __future__ import annotations

import gc
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NOTHING_SENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def empty_folder(environment: Mapping[str, str]) -> Iterator[str]:
    """An empty working directory, these variables, no warnings; all is put back in the end."""
    before = os.getcwd()
    saved = {name: os.environ.get(name) for name in environment}
    with (
        tempfile.TemporaryDirectory(prefix="fedprint-ray-") as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Ray's and Flower's own
        os.chdir(folder)
        os.environ.update(environment)
        try:
            yield folder
        finally:
            os.chdir(before)
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            gc.collect()
