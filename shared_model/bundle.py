"""The Flower bundle of a run: names of the installed apps, and no code.

Flower starts no run without a bundle. Ours is made of constants alone, so that it is the same bytes
on every machine and in every version of fedprint: a hospital knows its digest and takes no other.
"""

from __future__ import annotations

import io
import zipfile

from shared_model.canonical import digest

RUN = "fedprint-run"
"""The one key of the run's configuration: the name of the run."""

DIGEST = "f4fb5705a1ad9522f5ca1605a8990a2818488a3e74701bb5310b244f855a44a5"
"""SHA-256 of `content()`; whoever changes the bundle shuts out the nodes of all other versions."""

_PYPROJECT = f"""[project]
name = "fedprint"
version = "1.0.0"
description = "Holds no code: every site runs its own installed packages."
license = "Apache-2.0"
dependencies = [
    "flwr>=1.41",
]

[tool.flwr.app]
publisher = "fedprint"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
{RUN} = ""
"""
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_OWNER_ONLY = 0o600 << 16


def content() -> bytes:
    """The bundle: a ZIP of `pyproject.toml` and Flower's list of what is in it, stored as it is."""
    text = _PYPROJECT.encode()
    listed = f"pyproject.toml,{digest(text)},{8 * len(text)}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("pyproject.toml", text), (".info/CONTENT", listed)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = _UNIX
            entry.external_attr = _OWNER_ONLY
            archive.writestr(entry, data)
    return buffer.getvalue()
