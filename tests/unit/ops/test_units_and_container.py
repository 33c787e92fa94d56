"""The packaged units and the Containerfile, held against the tools that are here."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import client
import server
from shared_model import units
from shared_model.errors import OurMistake

ROOT = Path(__file__).resolve().parents[3]
UNITS = {
    "fedprint-node": Path(client.__path__[0]) / "systemd" / "fedprint-node.service",
    "fedprint-coordinator": Path(server.__path__[0]) / "systemd" / "fedprint-coordinator.service",
}
HARD = {
    "Type": "notify",
    "User": "fedprint",
    "Restart": "always",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service\n~@privileged",
    "LimitCORE": "0",
}
SECRETS = ("keys", "ledger", "registry.sqlite", "tls")


def service(text: str) -> dict[str, str]:
    """The [Service] section; a key that is there twice has both values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return {name: "\n".join(values) for name, values in found.items()}


@pytest.mark.parametrize("name", UNITS)
def test_unit_has_every_restriction(name: str) -> None:
    """One that is taken out is missed."""
    text = UNITS[name].read_text()
    configparser.RawConfigParser(strict=False, allow_no_value=False).read_string(text)
    said = service(text)
    assert {key: said.get(key) for key in HARD} == HARD
    assert said["StateDirectory"] == name
    assert "FLWR_TELEMETRY_ENABLED=0" in said["Environment"]
    assert "FLWR_DISABLE_UPDATE_CHECK=1" in said["Environment"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_itself_accepts_the_unit_and_finds_it_little_exposed(
    name: str, tmp_path: Path
) -> None:
    """`systemd-analyze verify` says nothing; `security` gives at most 2.0 of 10."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    path = tmp_path / f"{name}.service"
    # verify looks for the program: any that is there
    text = UNITS[name].read_text().replace(f"/opt/fedprint/bin/{name}", sys.executable)
    path.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(path)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= 2.0


def test_unit_is_printed_with_the_paths_of_this_installation(tmp_path: Path) -> None:
    """The very interpreter that prints it; a folder of one's own instead of the state directory."""
    text = UNITS["fedprint-node"].read_text()
    plain = units.filled_in(text, "fedprint-node", None)
    assert f"ExecStart={Path(sys.executable).parent}/fedprint-node start" in plain
    assert "StateDirectory=fedprint-node" in plain
    own = units.filled_in(text, "fedprint-node", Path("/srv/node"))
    assert "ReadWritePaths=/srv/node" in own
    assert "Environment=FEDPRINT_NODE_HOME=/srv/node\n" in own
    assert "StateDirectory" not in own
    units.put_out(own, tmp_path / "x.service")
    assert (tmp_path / "x.service").read_text() == own


@pytest.mark.parametrize("path", ["relative", "/a b", "/a\nExecStartPre=/bin/sh", "/a%n", "/$x"])
def test_path_that_would_be_read_as_something_else_is_refused(path: str) -> None:
    """A unit's line is no place for blanks, specifiers and line breaks."""
    with pytest.raises(OurMistake):
        units.filled_in("", "fedprint-node", Path(path))


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Containerfile; continued lines joined."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def last_stage() -> list[tuple[str, str]]:
    said = instructions()
    begin = max(place for place, (word, _) in enumerate(said) if word == "FROM")
    return said[begin:]


def test_container_runs_without_root_without_shell_and_with_exact_versions() -> None:
    """Read from its text, whether a builder is here or not."""
    every, final = instructions(), dict(last_stage())
    assert final["USER"] == "10001:10001"
    assert json.loads(final["CMD"]) == ["fedprint-node", "start"]
    assert "ENTRYPOINT" not in final
    check = final["HEALTHCHECK"].partition("CMD ")[2]
    assert json.loads(check)[0].startswith(("fedprint", "/opt/fedprint"))
    assert json.loads(final["VOLUME"]) == ["/var/lib/fedprint"]
    installs = [rest for word, rest in every if word == "RUN" and "pip install" in rest]
    assert installs
    for one in installs:
        of_pip_itself = one.count('--upgrade "pip>=')
        assert one.count("pip install") == one.count("-c constraints.txt") + of_pip_itself
    torch = re.search(r"torch==([0-9.]+)", " ".join(installs))
    assert torch is not None
    assert f"torch=={torch[1]}" in (ROOT / "constraints.txt").read_text().splitlines()
    for name, value in (("FLWR_TELEMETRY_ENABLED", "0"), ("FLWR_DISABLE_UPDATE_CHECK", "1")):
        assert f"{name}={value}" in final["ENV"].split()


def test_container_copies_what_exists_and_no_secret() -> None:
    """Every COPY names a file of this repository; none takes the whole folder."""
    copied = [
        part
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for part in rest.split()[:-1]
    ]
    assert set(copied) >= {"shared_model", "client", "server", "constraints.txt", "pyproject.toml"}
    for path in copied:
        assert (ROOT / path).exists()
        assert path not in (".", "./")
        assert not any(word in path for word in SECRETS)


def builder() -> str | None:
    """A program that can build an image here, now; docker's client alone cannot."""
    for name in ("podman", "buildah", "docker"):
        if shutil.which(name) is None:
            continue
        done = subprocess.run([name, "info"], capture_output=True, check=False, timeout=60)
        if done.returncode == 0:
            return name
    return None


@pytest.mark.long
def test_container_is_built_and_prints_its_help(tmp_path: Path) -> None:
    """Read-only root, no capabilities."""
    name = builder()
    if name is None:
        pytest.skip("no podman, buildah or docker engine works here: the image was NOT built")
    base = os.environ.get("FEDPRINT_CONTAINER_BASE", "")
    if not base:
        base = next(rest for word, rest in instructions() if word == "ARG").removeprefix("BASE=")
        pulled = subprocess.run([name, "pull", base], capture_output=True, check=False, timeout=300)
        if pulled.returncode != 0:
            pytest.skip(f"{base} cannot be fetched here: the image was NOT built")
    words = [name, "build"] if name != "buildah" else [name, "bud"]
    words += [
        "--build-arg",
        f"BASE={base}",
        "-t",
        "fedprint:test",
        "-f",
        str(ROOT / "Containerfile"),
    ]
    subprocess.run([*words, str(ROOT)], check=True)
    if name == "buildah":
        return
    done = subprocess.run(
        [
            *(name, "run", "--rm", "--read-only", "--cap-drop=all", "--tmpfs", "/tmp"),
            *("fedprint:test", "fedprint-node", "--help"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fedprint-node" in done.stdout
