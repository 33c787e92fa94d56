#!/usr/bin/env bash
# The built wheel, installed alone: the hospital's road from a folder of recordings to fingerprints.
# Usage: smoke_wheel.sh BIN (the bin folder of the environment), run in an empty working folder.
set -euo pipefail
bin=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for command in fedprint-node fedprint-coordinator fedprint-audit; do
  "$bin/$command" --help > /dev/null
done
"$bin/python" - <<'PYTHON'
import csv, math, pathlib
folder = pathlib.Path("ward"); folder.mkdir()
for patient in range(3):
    with open(folder / f"sim{patient}.csv", "w", newline="") as stream:
        out = csv.writer(stream); out.writerow(["time_s", "ppg"])
        for k in range(125 * 30):
            t = k / 125
            beat = (t * (1.0 + 0.1 * patient)) % 1.0
            pulse = math.exp(-((beat - 0.2) / 0.1) ** 2) + 0.4 * math.exp(-((beat - 0.5) / 0.12) ** 2)
            breath = 0.1 * math.sin(1.6 * t) + 0.05 * math.sin(5.1 * t)
            out.writerow([f"{t:.3f}", f"{pulse + breath:.5f}"])
with open(folder / "recordings.csv", "w", newline="") as stream:
    out = csv.writer(stream); out.writerow(["recording", "patient_id"])
    for patient in range(3):
        out.writerow([f"sim{patient}", f"pretend-{patient}"])
PYTHON
"$bin/fedprint-node" systemd > unit.service && grep -q "^ExecStart=$bin/fedprint-node start" unit.service
"$bin/fedprint-node" data add ward --home node --yes
"$bin/fedprint-node" data show --home node --json > shown.json
"$bin/fedprint-node" fingerprint ward -o fingerprints.parquet --home node --warm-start
"$bin/python" - <<'PYTHON'
import json, pyarrow.parquet as pq
table = pq.read_table("fingerprints.parquet")
assert table.num_rows == 9, table.num_rows
assert json.load(open("shown.json"))
print(f"smoke: {table.num_rows} fingerprints from the installed wheel")
PYTHON
