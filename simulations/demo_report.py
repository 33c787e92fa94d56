"""The demo's figures and its one-page report, from the files that its commands wrote."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_model import outputs, terminal
from shared_model.files import write_atomic
from simulations.report import Figure, ReportTable, Section, write_report
from simulations.results_tables import interval

if TYPE_CHECKING:
    from simulations.demo_parts import Demo

HELD_OUT_WINDOWS = 400


def held_out_curve(demo: Demo) -> list[dict[str, Any]]:
    """Reconstruction of patients that no hospital of the demo has, at every checkpoint.

    Error over the trivial predictor's (the window mean): below 1 is better than trivial. One entry
    a held-out folder. Writes held_out.json and held_out.png.
    """
    from server.checkpoints import RunFolder
    from server.home import CoordinatorHome
    from shared_model.mae import build, load_weights
    from shared_model.reconstruction import reconstruction_scores
    from simulations.demo_parts import RUN
    from simulations.held_out import held_out_windows

    folder = RunFolder(CoordinatorHome.find(demo.coordinator).run_folder(RUN))
    record = folder.record()
    kept = [0, *(item.round for item in record.rounds if item.outcome == "aggregated")]
    model = build(record.model, seed=0)
    document: list[dict[str, Any]] = []
    for source in demo.held_out:
        signal, valid, patients = held_out_windows(source, HELD_OUT_WINDOWS)
        curve = []
        for completed in kept:
            load_weights(model, folder.weights(record, completed))
            scores = reconstruction_scores(model, signal, valid, np.random.default_rng(0))
            curve.append({"round": completed, **scores})
        document.append(
            {"source": source.name, "patients": patients, "windows": len(signal), "curve": curve}
        )
    write_atomic(demo.root / "held_out.json", outputs.document(document).encode())
    _plot_curve(demo, document)
    return document


def _plot_curve(demo: Demo, document: list[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(document), figsize=(4 * len(document), 3.2), sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for axes, one in zip(panels[0], document, strict=True):
        rounds = [point["round"] for point in one["curve"]]
        for name, colour, bar, words in (
            ("masked", "#0072B2", 0.6, "hidden half of both sensors"),
            ("cross_modal", "#D55E00", 0.85, "one sensor wholly hidden"),
        ):
            values = [point[name] for point in one["curve"]]
            axes.plot(rounds, values, "o-", color=colour, label=words)
            axes.axhline(bar, color=colour, lw=0.8, ls=":")
        axes.axhline(1.0, color="#999999", lw=0.8)
        axes.set_title(f"{one['source']}, {one['patients']} patients", fontsize=9)
        axes.set_xlabel("round (0: warm start)")
        axes.set_xticks(rounds)
        axes.set_ylim(0, 1.2)
    panels[0][0].set_ylabel("error / trivial error")
    panels[0][0].legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(demo.root / "held_out.png", dpi=150)
    plt.close(figure)


def summarise(demo: Demo, seconds: float) -> dict[str, Any]:
    """Write summary.json and report.html; return the summary."""
    held_out = json.loads((demo.root / "held_out.json").read_text())
    audit = json.loads((demo.root / "audit.json").read_text())
    sums = json.loads((demo.root / "audit-sums.json").read_text())
    manifest = json.loads((demo.release / "manifest.json").read_text())
    table = _load(demo, "probe/probe.json")
    summary: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "data": "real recordings" if demo.real else "SIMULATED hospitals",
        "sites": [site.name for site in demo.sites],
        "in_words": _in_words(demo, held_out, manifest, table),
        "held_out": held_out,
        "privacy": manifest["privacy"],
        "audit": audit,
        "audit_sums": sums,
        "commands": demo.commands,
    }
    write_atomic(demo.root / "summary.json", outputs.document(summary).encode())
    _write(demo, summary, held_out, audit, manifest, table)
    return summary


def _load(demo: Demo, name: str) -> dict[str, Any] | None:
    path = demo.root / name
    if not path.exists():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _in_words(
    demo: Demo,
    held_out: list[dict[str, Any]],
    manifest: dict[str, Any],
    table: dict[str, Any] | None,
) -> list[str]:
    words = [
        "Three hospitals with real recordings of open collections."
        if demo.real
        else "The hospitals are SIMULATED: nothing here says anything about real patients.",
        *_learned(manifest),
    ]
    words += [_unseen(one) for one in held_out]
    words += [
        f"{one['site']}: epsilon {one['epsilon']:.2f} at delta {one['delta']:g}, privacy unit "
        f"{one['unit']}, trust model {one['trust_model']}."
        for one in manifest["privacy"]
    ]
    words.append(
        "With tens of patients a hospital, noise outweighs what private training can add to the "
        "warm start; the demo shows the road, not a gain."
    )
    if table is None:
        words.append("Probes were NOT measured: they need real recordings.")
    else:
        from simulations.probes.few import mean_words

        whose = mean_words(table.get("not_in_means", []))
        for name, gain in table["mean_gain_over_random_init"].items():
            value, low, high = (terminal.figure(gain[x], "+.3f") for x in ("value", "low", "high"))
            words.append(
                f"Probes, mean gain over random-init, {whose}: {name} {value} [{low}, {high}] "
                "skill."
            )
    return words


def _unseen(one: dict[str, Any]) -> str:
    """Of a folder with one sensor nothing cross-modal is known."""
    began, ended = (
        [terminal.figure(point[name], ".2f") for name in ("masked", "cross_modal")]
        for point in (one["curve"][0], one["curve"][-1])
    )
    return (
        f"Unseen patients of {one['source']} ({one['patients']}): masked reconstruction error "
        f"{ended[0]} of the trivial predictor's, cross-modal {ended[1]} (warm start alone: "
        f"{began[0]} and {began[1]})."
    )


def _learned(manifest: dict[str, Any]) -> list[str]:
    """What the coordinator learned, from the signed lineage."""
    sums = [step["sum"] for step in manifest["lineage"]["rounds"] if step["sum"] is not None]
    fewest = min(len(one["survivors"]) for one in sums)
    dropped = sum(len(one["dropped"]) for one in sums)
    away = f"In all, {dropped} answers of hospitals that were asked are missing in them."
    return [
        "Secure sum: the coordinator learned one sum a round, each of at least "
        f"{fewest} hospitals' noised updates, and no hospital's own. Besides: who took part, "
        "declared numbers of patients, what each hospital has spent, and when it answered.",
        f"Every sum ({len(sums)}) was checked by the hospitals in it before the release. "
        + (away if dropped else "No hospital dropped out."),
    ]


def _write(
    demo: Demo,
    summary: dict[str, Any],
    held_out: list[dict[str, Any]],
    audit: dict[str, Any],
    manifest: dict[str, Any],
    table: dict[str, Any] | None,
) -> None:
    sections = [
        Section("What happened", texts=tuple(summary["in_words"]), tables=(_steps(demo),)),
        _hospitals(demo),
        Section(
            "Reconstruction of unseen patients",
            texts=tuple(
                f"{one['windows']} windows of {one['patients']} patients of {one['source']}, none "
                "of them at any hospital of the demo."
                for one in held_out
            ),
            figures=(
                Figure.of(
                    demo.root / "held_out.png",
                    "Error over the trivial predictor's (window mean) after every round; 1 is "
                    "trivial, dotted lines are the project's bars (0.6 and 0.85).",
                ),
            ),
            tables=tuple(
                ReportTable.of(f"{one['source']} in numbers", one["curve"]) for one in held_out
            ),
        ),
        Section(
            "Privacy",
            texts=(
                "Epsilon composes every step that each hospital's data ever took part in. A "
                "patient treated at two hospitals has both: budgets add.",
            ),
            tables=(ReportTable.of("Statement of each hospital", manifest["privacy"]),),
        ),
        _audit_section(audit, summary["audit_sums"]),
        _probe_section(demo, table),
        Section("Every command", tables=(ReportTable.of("In order", demo.commands),)),
    ]
    notices = summary["in_words"][:3]
    subtitle = (
        f"{summary['data']} · {summary['seconds'] / 60:.1f} minutes · {os.cpu_count()} cores · "
        f"{platform.system()} {platform.machine()} · Python {platform.python_version()}"
    )
    write_report(
        demo.root / "report.html", "fedprint: the whole road once", subtitle, notices, sections
    )


def _steps(demo: Demo) -> ReportTable:
    rows = [
        {"step": step.title, "seconds": round(step.seconds, 1), "result": step.detail}
        for step in demo.steps
        if step.state == "done"
    ]
    return ReportTable.of("Steps", rows)


def _hospitals(demo: Demo) -> Section:
    """One table, a column a hospital, and the contact sheets."""
    shown = {
        f"{site.name} ({site.recordings.name})": dict(
            _flat(_load(demo, f"data-{site.name}.json") or {})
        )
        for site in demo.sites
    }
    names = list(dict.fromkeys(name for counts in shown.values() for name in counts))
    rows = [
        {"what": name, **{title: counts.get(name, 0) for title, counts in shown.items()}}
        for name in names
    ]
    figures = [
        Figure.of(path, f"{site.name}: windows that were kept and refused, with the reason")
        for site in demo.sites
        if (path := demo.root / f"sheet-{site.name}.png").exists()
    ]
    table = ReportTable.of("Counts of patients, recordings and windows; refusals by reason", rows)
    return Section("Hospitals and their recordings", tables=(table,), figures=tuple(figures))


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, int]]:
    """Nested counts as dotted names; anything else is left out."""
    rows: list[tuple[str, int]] = []
    for name, item in value.items():
        if isinstance(item, dict) and name != "sheet":
            rows += _flat(item, f"{prefix}{name}.")
        elif isinstance(item, int) and not isinstance(item, bool):
            rows.append((f"{prefix}{name}".replace("_", " "), item))
    return rows


def _audit_section(audit: dict[str, Any], sums: dict[str, Any]) -> Section:
    tables = [
        ReportTable.of(caption, [dict(row) for row in one["findings"]])
        for caption, one in (("fedprint-audit release", audit), ("fedprint-audit sum", sums))
    ]
    return Section(
        "Audit of the release and of the sums",
        texts=("CANNOT CHECK names what no offline audit can show.",),
        tables=tuple(tables),
    )


def _probe_section(demo: Demo, table: dict[str, Any] | None) -> Section:
    if table is None:
        return Section("Probes", texts=("Not measured: probes need real recordings.",))
    rows = [
        {
            "task": cell["task"],
            "sensors": cell["sensors"],
            "patients": cell["patients"],
            "row": cell["row"],
            "metric": cell["metric"],
            "value": _three(cell["estimate"]),
            "gain over random-init": "-"
            if cell["gain_over_random_init"] is None
            else _three(cell["gain_over_random_init"]),
        }
        for cell in table["cells"]
    ]
    texts = [
        f"Not above random-init: {one['row']} on {one['task']} ({one['sensors']})"
        + ("." if one["interval"] else ", there being no interval.")
        for one in table["not_above_random_init"]
    ]
    texts += [f"Not measured: {name}: {why}." for name, why in table["skipped"].items()]
    return Section(
        "Probes of the frozen fingerprint on real patients",
        texts=tuple(texts),
        tables=(ReportTable.of("95 % intervals, bootstrap over patients", rows),),
        figures=(
            Figure.of(demo.root / "probe" / "probe.png", "Skill of every row on every task."),
        ),
    )


def _three(estimate: dict[str, Any]) -> str:
    return "- (no interval)" if estimate["value"] is None else interval(estimate, 3)
