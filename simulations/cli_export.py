"""fedprint-lab export: the fingerprint as ONNX files that need no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake

FLOAT32, INT8, MANIFEST = "fingerprint.onnx", "fingerprint.int8.onnx", "manifest.json"
LIMITS = "Not a medical device. Fingerprints are personal data: they carry age, sex and identity."


def register(app: typer.Typer) -> None:
    """Add `export` to the lab's commands."""

    @app.command()
    def export(
        model: Annotated[
            str,
            typer.Argument(
                help="A release, `warm-start`, `warm-start:PRESET`, or a safetensors file."
            ),
        ],
        output: Annotated[
            Path,
            typer.Option(
                "-o",
                "--output",
                callback=outputs.folder,
                help="Folder for the three files; one that holds an export is refused.",
            ),
        ],
        signer: Annotated[
            str | None,
            typer.Option(help="Release key (hex) or coordinator.json; else nothing is verified."),
        ] = None,
        int8: Annotated[
            bool, typer.Option("--int8/--no-int8", help="Write the int8 file as well.")
        ] = True,
        as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
    ) -> None:
        """Write a model's fingerprint as ONNX, float32 and int8, and how well they agree with it.

        Agreement is measured on simulated windows: both sensors, each alone, and 2.1 s. A file
        whose fingerprints are not the model's is not written.

        Example: fedprint-lab export warm-start:small -o exported
        """
        _free(output)
        terminal.err.print("exporting, then comparing on simulated windows (about a minute)")
        files, manifest = _export(model, signer, int8)
        _write(output, {**files, MANIFEST: outputs.document(manifest).encode()})
        if as_json:
            terminal.print_json(manifest)
            return
        terminal.out.print(f"{model}, model digest {manifest['model_digest'][:16]}...")
        rows = [
            {
                "file": str(output / name),
                "MB": round(one["size_bytes"] / 1e6, 2),
                **{f"cosine {k}, min": round(v["min"], 5) for k, v in one["agreement"].items()},
            }
            for name, one in manifest["files"].items()
        ]
        terminal.show("Agreement with the model, on simulated windows", rows, as_json=False)
        terminal.out.print(LIMITS)


def _free(folder: Path) -> None:
    """Raises OurMistake where a file of an export is there: it would stay beside another's manifest
    or be lost. It is said before the work."""
    there = [name for name in (FLOAT32, INT8, MANIFEST) if os.path.lexists(folder / name)]
    if there:
        raise OurMistake(f"{folder} holds {', '.join(there)} already.", do="Choose another folder.")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All of them or none; the manifest comes last.

    Raises:
        OurMistake: one is there, or cannot be written.
    """
    _free(folder)
    outputs.write_all(folder, files)


def _export(name: str, signer: str | None, int8: bool) -> tuple[dict[str, bytes], dict[str, Any]]:
    from simulations import onnx_export
    from simulations.models import open_model

    onnx_export.require()
    opened = open_model(name, signer)
    facts = {"model_digest": opened.digest, "limits": LIMITS}
    made = onnx_export.export(opened.config, opened.weights, facts)
    files = {FLOAT32: made.float32}
    if int8:
        files[INT8] = made.int8
    described: dict[str, Any] = {}
    for file, data in files.items():
        found = onnx_export.agreement(opened.config, opened.weights, data, source=name)
        onnx_export.check_agreement(found, float32_agrees=file == INT8)
        described[file] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "agreement": found,
        }
    manifest = {
        "schema": 1,
        **opened.words,
        "source": Path(name).name if os.path.lexists(name) else name,  # no folders of this machine
        "files": described,
        "agreement_measured_on": f"{onnx_export.WINDOWS} simulated windows; cosine with the model",
        "input": {
            "signal": "float32 (window, 2, 1250): ECG, PPG at 125 Hz, z-scored, 0 where not valid",
            "valid": "bool (window, 2, 50): what may be looked at, per 0.2 s",
        },
        "output": {"fingerprint": "float32 (window, 128), unit norm"},
        "opset": onnx_export.OPSET,
        "versions": {
            one: version(one) for one in ("fedprint", "torch", "onnx", "onnxruntime", "onnxscript")
        },
        "limits": LIMITS,
    }
    return files, manifest
