"""A process of its own that works for this one through a pipe, and what is said when it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

from shared_model.errors import FedprintError

_ENDS_S = 10.0


def started(
    serve: str, theirs: Connection, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The process, in a session of its own: Ctrl-C is for this process, which ends its workers.

    Args:
        serve: `module:function`, called with the pipe's descriptor, this process's id and
            `arguments`, all as text. theirs: the worker's end; the caller closes its own copy.
    """
    module, _, function = serve.partition(":")
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"from {module} import {function}; {function}(*sys.argv[2:])"
    )
    told = (str(theirs.fileno()), str(os.getpid()), *arguments)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, json.dumps(sys.path), *told],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=env,
    )


def gone(process: subprocess.Popen[bytes], option: str) -> FedprintError:
    """The fault to raise where the pipe of a worker is closed.

    Args:
        option: what to take fewer of.
    """
    how = "does not answer"
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(_ENDS_S)
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return FedprintError(
        f"A worker process is gone ({how}).",
        do=f"If it was killed for want of memory, take fewer {option}. Go on with --resume.",
    )
