"""The runs of a sweep over Ray Tune: each is a trial with one core. Nothing is searched.

Ray's usage reports, dashboard and default loggers are off, and it works in an empty folder: it
puts the working directory on its workers' path (`simulations.empty_folder`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shared_model.errors import OurMistake
from simulations.empty_folder import empty_folder
from simulations.lab.sweep_run import Outcome, Task, carry_out

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def over_tune(tasks: Sequence[tuple[str, Task]], workers: int) -> Iterator[tuple[str, Outcome]]:
    """Carry all out, `workers` at a time; gives their keys and outcomes once all have ended.

    Raises:
        OurMistake: Ray Tune is not installed.
    """
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise OurMistake(
            "Ray Tune is not installed.", do="Install fedprint[lab], or say --engine pool."
        ) from error
    by_key = dict(tasks)
    with empty_folder(QUIET) as folder:
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            ignore_reinit_error=False,
        )  # fmt: skip
        try:

            def trial(chosen: dict[str, Any]) -> dict[str, Any]:
                outcome = carry_out(by_key[chosen["key"]])
                return {"finished": float(outcome.state == "finished")}

            tune.Tuner(
                tune.with_resources(trial, {"cpu": 1}),
                param_space={"key": tune.grid_search(list(by_key))},
                run_config=tune.RunConfig(storage_path=folder, name="sweep", verbose=0),
            ).fit()
        finally:
            ray.shutdown()
    for key, task in by_key.items():
        outcome = Outcome.read(task.outcome)
        if outcome is None:
            outcome = Outcome("failed", f"Ray Tune ended its trial; see {task.log}.", 0.0)
            outcome.save(task.outcome)
        yield key, outcome
