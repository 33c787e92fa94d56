"""The bars of issue 7, and what a file of results says of each: reached, not reached, not measured.

The bars are the issue's own. Values and answers come of a file's figures by the rules of today:
what a file says of itself ("reached") is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simulations.cross_modal import RATE_BAR_BPM, bar_counts
from simulations.gain_answers import BARS as MODES
from simulations.gain_answers import gain_rows, is_upper, pooled_answer
from simulations.measurement import Measurement
from simulations.probes.bars import loss_words, not_counted, summary, uncounted
from simulations.probes.pooled import ratios
from simulations.results_rows import NOT_MEASURED
from simulations.results_tables import interval


@dataclass(frozen=True)
class Found:
    """One file's answer. value: in words; reached: None where the file cannot say.

    beside: what must not be read without the answer, in the same cell.
    """

    value: str
    reached: bool | None
    beside: str = ""

    @property
    def answer(self) -> str:
        """The cell."""
        said = {True: "**reached**", False: "not reached", None: "no answer"}[self.reached]
        return f"{said}; {self.beside}" if self.beside else said


@dataclass(frozen=True)
class Bar:
    """figure, bar: the issue's words. kind: of the files that answer; `read` asks one of them."""

    figure: str
    bar: str
    kind: str
    read: Callable[[dict[str, Any]], Iterable[Found]]


def _bench(
    name: str, key: str, holds: Callable[[float], bool], words: str
) -> Callable[[dict[str, Any]], Iterable[Found]]:
    def read(figures: dict[str, Any]) -> Iterable[Found]:
        if figures.get("name") != name or key not in figures.get("figures", {}):
            return
        value = float(figures["figures"][key])
        if figures.get("quick"):
            yield Found(f"{value:.3g} {words} (quick sizes: no answer)", None)
        else:
            yield Found(f"{value:.3g} {words}", holds(value))

    return read


def _whose(figures: dict[str, Any]) -> str:
    """Which patients a probe's file is of."""
    return (
        "patients no run has read"
        if figures.get("release", {}).get("unseen_by")
        else "all patients"
    )


def _probe(key: str, words: str) -> Callable[[dict[str, Any]], Iterable[Found]]:
    def read(figures: dict[str, Any]) -> Iterable[Found]:
        for row, said in summary(figures).items():
            one = said[key]
            yield Found(
                f"{row}, {_whose(figures)}: {words} on {one['by_interval']} of {one['tasks']} by "
                f"interval, {one['by_point_estimate']} by point estimate{uncounted(one)}",
                bool(one["reached"]),
            )

    return read


def _single(figures: dict[str, Any]) -> Iterable[Found]:
    for row, said in summary(figures).items():
        one = said["single_sensor"]
        if one is not None:
            yield Found(
                f"{row}, {_whose(figures)}: {loss_words(one)}{not_counted(one)}",
                bool(one["reached"]),
            )


def _rate(figures: dict[str, Any]) -> Iterable[Found]:
    row = figures["directions"]["ppg_to_ecg"].get("all sites")
    if row is not None and row["rate_error_bpm"] is not None:
        error, lost = row["rate_error_bpm"]["value"], 100 * row["rate_lost"]["value"]
        value = (
            f"all sites: {interval(row['rate_error_bpm'], 2)} bpm, {lost:.2f} % of windows lost; "
            f"the PPG itself {row['raw_rate_error_bpm']['value']:.2f} bpm"
        )
        if bar_counts(figures):
            yield Found(value, error <= RATE_BAR_BPM)
        else:
            yield Found(f"{value} (not asked of these folders or sizes)", None)


def _gain(mode: str) -> Callable[[dict[str, Any]], Iterable[Found]]:
    def read(figures: dict[str, Any]) -> Iterable[Found]:
        rows = [row for row in gain_rows(figures["rows"]) if row["mode"] in MODES]
        for row, run in zip(rows, figures["shares"], strict=True):
            if row["mode"] != mode:
                continue
            value, beside = f"{row['measure']}: {row['words']}", ""
            if is_upper(row):
                beside = "an upper figure"
            if run["as_asked"]:
                yield Found(value, row["reached"], beside)
            else:
                yield Found(f"{value} (other sizes than asked)", None)

    return read


def _real_pooled(figures: dict[str, Any]) -> Iterable[Found]:
    """The same of a probe's file that has both rows."""
    one = ratios(figures)
    if one is not None:
        yield Found(f"real patients, {_whose(figures)}: {one.words}", one.reached, one.beside)


def _speed_up(figures: dict[str, Any]) -> Iterable[Found]:
    """Over the model in torch, as the bar is answered; over float32 ONNX it is another figure."""
    for one in _bench("onnx", "speedup_vs_torch", lambda x: x >= 2.0, "x")(figures):
        other = figures["figures"].get("speedup_vs_onnx_float32")
        same = "not measured" if other is None else f"{other:.3g} x"
        whole = figures["figures"].get("speedup_one_call_32")
        calls = "" if whole is None else f" ({whole:.3g} x with 32 windows in one call)"
        yield Found(
            f"{one.value} over the float32 model in torch{calls}; {same} over the float32 ONNX "
            "file of the same export",
            one.reached,
            "" if one.reached is None else "over torch",
        )


def _pooled(figures: dict[str, Any]) -> Iterable[Found]:
    """The bar as it is written is of ratios; what they are worth stands beside it."""
    one = pooled_answer(figures)
    yield Found(one.words, one.ratios_reached, one.beside)


BARS = (
    Bar("`bench dp-step`, `small`: time ratio", "<= 1.25", "bench",
        _bench("dp-step", "time_ratio", lambda x: x <= 1.25, "x")),
    Bar("`bench dp-step`, `small`: memory ratio", "<= 1.5", "bench",
        _bench("dp-step", "memory_ratio", lambda x: x <= 1.5, "x")),
    Bar("`bench dp-step`, `small`: speed-up over Opacus hooks", ">= 1.7", "bench",
        _bench("dp-step", "speedup_vs_opacus_hooks", lambda x: x >= 1.7, "x")),
    Bar("probes on real sites, above random-init", ">= 6 of 8 tasks", "probe",
        _probe("above_random_init", "above random-init")),
    Bar("probes on real sites, above hand-made features", ">= 4 of 7 other than heart rate",
        "probe", _probe("above_hand_made", "above hand-made features")),
    Bar("federated without DP against pooled, same steps",
        ">= 0.98 of the AUROC, <= 1.03 of the MAE, every task", "against-pooled", _pooled),
    Bar("federated without DP against pooled, real patients",
        ">= 0.98 of the AUROC, <= 1.03 of the MAE, every task", "probe", _real_pooled),
    Bar("share of the gain kept, `local`, epsilon 3, expected batch 256 at each hospital",
        ">= 40 %", "gain", _gain("local")),
    Bar("share of the gain kept, `distributed`, epsilon 3, expected batch 256 at each hospital",
        ">= 70 %", "gain", _gain("distributed")),
    Bar("one sensor against both, largest loss of AUROC", "<= 5 %", "probe", _single),
    Bar("PPG -> ECG heart-rate error", "<= 2.9 bpm", "cross-modal", _rate),
    Bar("int8 ONNX encoder, `small`: size", "<= 3 MB", "bench",
        _bench("onnx", "size_bytes_int8", lambda x: x <= 3e6, "bytes")),
    Bar("int8 ONNX encoder, `small`: cosine to float32, smallest", ">= 0.99", "bench",
        _bench("onnx", "cosine_min", lambda x: x >= 0.99, "")),
    Bar("int8 ONNX encoder, `small`: speed-up on CPU", ">= 2", "bench", _speed_up),
)  # fmt: skip


def lines(measured: dict[str, Measurement]) -> list[tuple[str, str, str, str, str]]:
    """(figure, bar, value, answer, file) of every bar and every file that speaks of it."""
    rows = []
    for one in BARS:
        answers = [
            (found, name)
            for name, document in measured.items()
            if document.kind == one.kind
            for found in one.read(document.figures)
        ]
        if not answers:
            rows.append((one.figure, one.bar, NOT_MEASURED, NOT_MEASURED, ""))
        for found, name in answers:
            rows.append((one.figure, one.bar, found.value, found.answer, name))
    return rows
