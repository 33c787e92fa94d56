"""fedprint-audit selftest: does the private training that is installed here do what is booked?"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Annotated

import typer

from shared_model import terminal
from shared_model.errors import Refused

INCOMPLETE_EXIT = 6
"""As of `fedprint-audit sum`: no fault was found, and a check could not be made."""


def register(app: typer.Typer) -> None:
    """Add `selftest` to the auditor's commands."""

    @app.command()
    def selftest(
        only: Annotated[
            list[str] | None, typer.Option(help="A check by its name; again for more.")
        ] = None,
        quick: Annotated[
            bool, typer.Option("--quick", help="Fewer steps: smaller faults go unseen.")
        ] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON document instead of a table.")
        ] = False,
    ) -> None:
        """Run this installation's own private training on made-up patients and measure it.

        Noise, clipping, sampling, accountants and ledger, each from outside. Takes about a minute,
        --quick 20 seconds; needs no network and no data. A sound installation fails a check by
        chance at most once in ten million runs. The exit status is 3 if a check fails, 6 if none
        fails and one could not be made.

        A self-test can find a fault; it can never prove privacy.

        Example: fedprint-audit selftest --only noise-deviation --only clipping
        """
        from auditor import selftest as tests
        from auditor import selftest_checks, selftest_counting, selftest_shared
        from shared_model.release_files import code_digest
        from simulations.torch_threads import torch_threads

        every = (*selftest_checks.CHECKS, *selftest_shared.CHECKS, *selftest_counting.CHECKS)
        checks = tests.chosen(every, only or ())
        findings = []
        with torch_threads(1):
            for number, check in enumerate(checks, start=1):
                _tell(f"{number}/{len(checks)} {check.name}: {check.shows}")
                started = time.monotonic()
                findings.append(tests.run(check, quick=quick))
                _tell(f"    {findings[-1].verdict}, {time.monotonic() - started:.1f} s")
        verdicts = {item.verdict for item in findings}
        verdict = "FAILED" if "FAILED" in verdicts else "INCOMPLETE" if len(verdicts) > 1 else "OK"
        if as_json:
            terminal.print_json(
                {
                    "verdict": verdict,
                    "quick": quick,
                    "all_checks": not only,
                    "code": code_digest(),
                    "versions": {
                        "python": sys.version.split()[0],
                        **{name: version(name) for name in ("fedprint", "torch", "numpy")},
                    },
                    "false_alarm_of_all": sum(item.false_alarm for item in findings),
                    "findings": [vars(item) for item in findings],
                    "in_words": tests.LIMITS_IN_WORDS,
                }
            )
        else:
            rows = [
                {
                    "check": item.check,
                    "verdict": item.verdict,
                    "seen": item.detail,
                    "would find": item.finds,
                }
                for item in findings
            ]
            terminal.show(f"Self-tests of code {code_digest()[:12]}", rows, as_json=False)
            typer.echo(
                f"A sound installation fails a check by chance at most once in "
                f"{1 / tests.FALSE_ALARM:,.0f} runs. {tests.LIMITS_IN_WORDS}"
            )
        failed = [item.check for item in findings if item.verdict == "FAILED"]
        if failed:
            raise Refused(
                f"{len(failed)} of {len(findings)} self-tests failed: {', '.join(failed)}.",
                reason="audit",
                do="Do not train with this installation; install a signed release anew and repeat.",
            )
        if verdict == "INCOMPLETE":
            typer.echo("INCOMPLETE: no check failed, but one could not be made.", err=True)
            raise typer.Exit(INCOMPLETE_EXIT)


def _tell(text: str) -> None:
    terminal.err.print(text, highlight=False)
