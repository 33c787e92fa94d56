"""fedprint-lab gate: how many windows the quality gate keeps, by rhythm. It must keep the sick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from shared_model import terminal
from shared_model.config import WINDOW_S
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from client.records import Event, Recording

BAR = 0.95
"""Retention of every rhythm over that of sinus (design/model.md)."""
MANY_VENTRICULAR_BEATS = 2
RHYTHMS = ("sinus", "AF", "bigeminy", "PVC", "VT", "paced", "other")
JUDGED = ("AF", "bigeminy", "PVC", "VT", "true VT alarm")
_NORMAL_BEATS = frozenset("NLR")
_VENTRICULAR_BEATS = frozenset("VE")
_CLASS_OF_RHYTHM = (
    ("VT", frozenset({"VT", "VFL"})),
    ("bigeminy", frozenset({"B"})),
    ("AF", frozenset({"AFIB", "AFL"})),
)


@dataclass(frozen=True)
class Judged:
    """One window: who, which class, whether any channel and whether the ECG was kept."""

    patient: str
    group: str
    usable: bool
    ecg: bool


def rhythm_of(events: tuple[Event, ...], start_s: float) -> str:
    """Class of the window that starts at `start_s`, one of RHYTHMS.

    The rarest wins: VT or ventricular flutter, bigeminy, AF or flutter, two or more ventricular
    beats, sinus (nothing but normally conducted beats in sinus rhythm), paced, else other.
    """
    stop_s = start_s + WINDOW_S
    rhythms: set[str] = set()
    current = ""
    beats: list[str] = []
    for event in events:
        if event.time_s >= stop_s:
            break
        kind, _, value = event.kind.partition(":")
        if kind == "rhythm":
            current = value.strip("()\x00 ")
            if event.time_s >= start_s:
                rhythms.add(current)
        elif kind == "beat" and event.time_s >= start_s:
            beats.append(value)
        if event.time_s < start_s:
            rhythms = {current}
    for name, members in _CLASS_OF_RHYTHM:
        if rhythms & members:
            return name
    if sum(beat in _VENTRICULAR_BEATS for beat in beats) >= MANY_VENTRICULAR_BEATS:
        return "PVC"
    if rhythms <= {"N", "SBR"} and beats and all(beat in _NORMAL_BEATS for beat in beats):
        return "sinus"
    return "paced" if "P" in rhythms or "/" in beats else "other"


def _windows(recording: Recording, skip_s: float = 0.0) -> npt.NDArray[np.bool_]:
    """bool (window, 2): accepted, after dropping the first `skip_s` seconds."""
    from shared_model.quality import ACCEPTED
    from shared_model.windows import prepare

    channels: list[Any] = []
    for name in ("ecg", "ppg"):
        channel = recording.channels.get(name)
        if channel is None:
            channels += [None, 0.0]
        else:
            channels += [channel.samples[round(skip_s * channel.fs_hz) :], channel.fs_hz]
    return np.asarray(prepare(*channels).refusal == ACCEPTED)


def judge_holter(root: Path) -> Iterator[Judged]:
    """Every window of `holter_mitdb`, classed by its annotations."""
    for recording in _recordings(root / "holter_mitdb"):
        accepted = _windows(recording)
        for number, row in enumerate(accepted):
            group = rhythm_of(recording.events, number * WINDOW_S)
            yield Judged(recording.patient, group, bool(row.any()), bool(row[0]))


def judge_alarms(root: Path) -> Iterator[Judged]:
    """The 10 s before each ventricular-tachycardia alarm, and all other windows of the same."""
    for folder in sorted(root.glob("icu_alarms_*")):
        for recording in _recordings(folder):
            alarm_s = float(recording.labels["alarm_s"])
            true = float(recording.labels["vt_true"]) == 1.0
            accepted = _windows(recording, skip_s=alarm_s % WINDOW_S)
            at_alarm = int(alarm_s // WINDOW_S) - 1
            for number, row in enumerate(accepted):
                group = "ICU, other"
                if number == at_alarm:
                    group = "true VT alarm" if true else "false VT alarm"
                yield Judged(recording.patient, group, bool(row.any()), bool(row[0]))


def judge_quality(root: Path) -> Iterator[Judged]:
    """`quality_cinc2011`: the experts judged 12 leads, the gate sees one. For information."""
    for recording in _recordings(root / "quality_cinc2011"):
        label = recording.labels.get("acceptable")
        if label is not None:
            group = "experts: good" if float(label) == 1.0 else "experts: bad"
            row = _windows(recording)[0]
            yield Judged(recording.patient, group, bool(row.any()), bool(row[0]))


def _recordings(folder: Path) -> Iterator[Recording]:
    from client.records import Recording, read_folder
    from simulations.site_mapping import mapping_of

    for item in read_folder(folder, mapping_of(folder)):
        if isinstance(item, Recording):
            yield item


def table(judged: list[Judged]) -> list[dict[str, Any]]:
    """One row a class: patients, windows, share kept, and that share over sinus's."""
    sinus = [one.ecg for one in judged if one.group == "sinus"]
    if not sinus:
        raise OurMistake("No sinus windows: there is nothing to compare with.")
    reference = float(np.mean(sinus))
    rows = []
    for group in dict.fromkeys((*RHYTHMS, *(one.group for one in judged))):
        mine = [one for one in judged if one.group == group]
        if not mine:
            continue
        kept = float(np.mean([one.ecg for one in mine]))
        rows.append(
            {
                "class": group,
                "patients": len({one.patient for one in mine}),
                "windows": len(mine),
                "ecg kept": round(kept, 4),
                "any channel kept": round(float(np.mean([one.usable for one in mine])), 4),
                "ecg kept / sinus": round(kept / reference, 4) if reference else None,
                "bar": BAR if group in JUDGED else None,
            }
        )
    return rows


def retention(root: Path) -> list[dict[str, Any]]:
    """The whole table from the folders below `root`."""
    judged = [*judge_holter(root), *judge_alarms(root), *judge_quality(root)]
    return table(judged)


def register(app: typer.Typer) -> None:
    """Add `gate` to the lab's commands."""

    @app.command()
    def gate(
        data: Annotated[
            Path,
            typer.Option(envvar="FEDPRINT_DATA", help="Folder of the real recordings."),
        ] = Path("../shared/data"),
        as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    ) -> None:
        """Retention of the quality gate by rhythm; exit status 3 if a rhythm falls below the bar.

        Example: fedprint-lab gate --data ../shared/data
        """
        if not (data / "holter_mitdb").is_dir():
            raise OurMistake(
                f"{data} has no holter_mitdb.", do="Give the folder of the sites with --data."
            )
        rows = retention(data)
        terminal.show("Quality gate: windows kept, by rhythm", rows, as_json=as_json)
        ratios = {row["class"]: row["ecg kept / sinus"] for row in rows if row["bar"] is not None}
        below = [name for name, ratio in ratios.items() if ratio is None or ratio < BAR]
        if below:
            raise Refused(
                f"The gate loses too many windows of: {', '.join(below)}.",
                reason="retention",
                do="Do not ship this gate: change the threshold that refuses them.",
            )
