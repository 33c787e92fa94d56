"""fedprint-coordinator: init, enrol, remove, invitation, start, status, submissions."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from server import cli_submissions
from server.cli_status import Home, run_names, status, unfinished
from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.config import TRAINABLE
from shared_model.errors import OurMistake, Refused


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (init, enrol, remove, invitation, start, status):
        app.command()(command)
    app.add_typer(cli_submissions.app, name="submissions")


def init(
    home: Home = None,
    address: Annotated[
        str, typer.Option(help="HOST:PORT that hospitals reach.")
    ] = "127.0.0.1:8443",
    bind: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks.")
    ] = "127.0.0.1",
    root: Annotated[
        Path | None,
        typer.Option(
            help="root.json of the consortium's root key; may be given later.", exists=True
        ),
    ] = None,
    registry_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the registry; else one above the address's."),
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the dashboard; else above the registry's."),
    ] = None,
    dashboard_bind: Annotated[
        str | None,
        typer.Option(help="Address of the dashboard, 127.0.0.1 by default; others with TLS."),
    ] = None,
) -> None:
    """Make the coordinator's keys, certificate authority and server certificate.

    Nothing is ever overwritten. Hospitals can be invited once root.json was given.

    Example: fedprint-coordinator init --address fedprint.example.org:8443 --bind 0.0.0.0
    """
    from server import dashboard_config, rosters, superlink, tls
    from server.root import refuse_beside
    from shared_model import signing

    place = CoordinatorHome.find(home)
    refuse_beside(place)
    place.make()
    if place.config.exists():
        present = superlink.load_config(place)
        if present.address != address:
            raise OurMistake(
                f"{place.root} is the coordinator at another address.",
                do="Choose another folder with --home.",
            )
        registry_port = registry_port or present.registry_port
        dashboard_port = dashboard_port or present.dashboard_port
        dashboard_bind = dashboard_bind or present.dashboard_bind
    if not place.ca_key.exists():
        tls.make(place, address, now=datetime.datetime.now(datetime.UTC))
    for path in (place.run_key, place.release_key):
        if not path.exists():
            signing.create_key_file(path)
    config = superlink.CoordinatorConfig(
        address=address,
        bind=bind,
        registry_port=registry_port,
        dashboard_port=dashboard_port,
        dashboard_bind=dashboard_bind or "127.0.0.1",
    )
    dashboard_config.is_local(config.dashboard_bind)
    registry = config.registry_address
    superlink.write_config(place, config)
    terminal.out.print(
        f"The coordinator is at {place.root}; hospitals reach it at {address}, and its registry at "
        f"{registry}.",
        soft_wrap=True,
    )
    if root is not None:
        rosters.pin_root(place, root.read_bytes())
    if not place.root_public.exists():
        terminal.out.print(
            "Next: fedprint-coordinator init --root root.json, with the file of the consortium's "
            "root key (docs/root-key.md).",
            soft_wrap=True,
        )
        return
    terminal.out.print(
        f"Digest of the root key, to be compared with its holder by telephone:\n"
        f"  {rosters.root_card(place).spoken_key}\n  {rosters.root_card(place).words_key}\n"
        "Next: fedprint-coordinator serve (registry, dashboard and runs), and for each hospital "
        "fedprint-coordinator invite SITE -o token.json",
        soft_wrap=True,
    )


def enrol(
    card: Annotated[Path, typer.Argument(help="site.json of a hospital.", exists=True)],
    home: Home = None,
) -> None:
    """Take a hospital into the roster, after its digest was compared by telephone.

    Example: fedprint-coordinator enrol site.json
    """
    from server import sites

    taken = sites.enrol(CoordinatorHome.find(home), card.read_bytes())
    terminal.out.print(
        f"Enrolled {taken.site}, {taken.declared_patients} declared patients. Compare with the "
        f"hospital by telephone; the digest of its site.json is\n  {taken.spoken}",
        soft_wrap=True,
    )


def remove(
    site: Annotated[str, typer.Argument(help="Name of the hospital.")], home: Home = None
) -> None:
    """Take a hospital out of the roster; its node is refused from the next start on.

    Example: fedprint-coordinator remove north-clinic
    """
    from server import sites

    sites.remove(CoordinatorHome.find(home), site)
    terminal.out.print(f"{site} is no longer enrolled.")


def invitation(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    home: Home = None,
) -> None:
    """Write the file that hospitals pin: address, certificate authority, public keys.

    Example: fedprint-coordinator invitation -o coordinator.json
    """
    from server import registry_enrolment
    from shared_model.files import write_atomic

    made, data = registry_enrolment.invitation(CoordinatorHome.find(home))
    write_atomic(output, data)
    terminal.out.print(
        f"Wrote {output}. Read its digest to each hospital by telephone:\n  {made.spoken}\n"
        f"or in words:\n  {made.words}",
        soft_wrap=True,
    )


def start(
    home: Home = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of a new run.")] = None,
    run: Annotated[
        str | None, typer.Option(help="Name; else the unfinished run, else a new one.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Model preset of a new run.")] = "tiny",
    trainable: Annotated[
        str, typer.Option(help=f"What hospitals train: {', '.join(TRAINABLE)}.")
    ] = "head",
    sample_rate: Annotated[
        float, typer.Option(help="Probability that a patient enters a step.")
    ] = 0.1,
    noise_multiplier: Annotated[
        float, typer.Option(help="Noise standard deviation over the clipping norm.")
    ] = 1.0,
    clipping_norm: Annotated[float, typer.Option(help="L2 bound on a patient's part.")] = 1.0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser steps in a round; 20, or 1 in mode distributed."),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="Trust model: local, or distributed, in which the hospitals share the noise out."
        ),
    ] = "local",
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, 0.001; in mode distributed of plain steps, 0.1.")
    ] = None,
    minimum: Annotated[int, typer.Option(min=2, help="Fewest hospitals in an aggregate.")] = 3,
    deadline_s: Annotated[
        float, typer.Option(help="How long a round stays open, in seconds.")
    ] = 3600.0,
    config: Annotated[
        Path | None, typer.Option(help="run.toml with everything, instead of the options.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that paused itself.")
    ] = False,
    only_begin: Annotated[
        bool,
        typer.Option("--only-begin", help="Begin a new run and end: serve takes it up."),
    ] = False,
) -> None:
    """Begin a training run, or continue the one that was interrupted; ends when it is finished.

    The options of a run are fixed when it begins; a continued run keeps its own.

    A finished run is continued too, by its name: hospitals that have not yet verified one of its
    sums are asked again.

    Example: fedprint-coordinator start --rounds 20
    """
    from server import rosters, service_runs, superlink
    from server.checkpoints import RunFolder

    place, shared = CoordinatorHome.find(home), mode == "distributed"
    superlink.load_config(place)
    if not only_begin:
        service_runs.refuse_if_served(place)
    elif run is None and unfinished(place) is not None:
        raise OurMistake(
            f"Run {unfinished(place)} is unfinished.", do="Give the new run a name with --run."
        )
    name = run or unfinished(place) or f"run-{len(run_names(place)) + 1}"
    folder = RunFolder(place.run_folder(name))
    if not folder.exists:
        if config is None and rounds is None:
            raise OurMistake(
                "There is no run to continue, and a new one needs a number of rounds.",
                do="Run: fedprint-coordinator start --rounds N",
            )
        _begin(
            place,
            config,
            {
                "run": name,
                "preset": preset,
                "rounds": rounds,
                "privacy": {
                    "sample_rate": sample_rate,
                    "noise_multiplier": noise_multiplier,
                    "clipping_norm": clipping_norm,
                    "steps": steps or (1 if shared else 20),
                    "mode": mode,
                },
                "training": {
                    "trainable": trainable,
                    "optimiser": "sgd" if shared else "adam",
                    "learning_rate": learning_rate or (0.1 if shared else 1e-3),
                },
                "minimum_contributors": minimum,
                "deadline_s": deadline_s,
            },
            name,
        )
    elif config is not None or (rounds is not None and rounds != folder.record().config.rounds):
        raise OurMistake(
            f"Run {name} has begun; its configuration is fixed.",
            do="Continue it without --rounds and --config, or choose another name with --run.",
        )
    if only_begin:
        terminal.out.print(f"fedprint-coordinator serve works on run {name}.")
        return
    if folder.record().state != "finished":
        rosters.usable(place, rosters.today_utc())  # says so if it has expired
    _conduct(place, name, resume=resume)


def _begin(place: CoordinatorHome, config: Path | None, options: dict[str, Any], name: str) -> None:
    from server import coordinate, rosters
    from server.checkpoints import RunFolder
    from server.progress import spare
    from server.run_config import RunConfig
    from server.run_start import settings_of
    from shared_model import signing

    settings = RunConfig.from_dict(options) if config is None else RunConfig.from_toml(config)
    if settings.run != name:
        raise OurMistake(
            f"{config} configures run {settings.run}, not {name}.",
            do=f"Give --run {settings.run}",
        )
    if settings.aggregation != "secure-sum":
        raise Refused(
            "Masks can be switched off in simulations only: hospitals refuse such rounds.",
            reason="secure-sum",
            do="Remove aggregation from the run's configuration.",
        )
    signed = rosters.usable(place, rosters.today_utc())
    coordinate.begin(
        RunFolder(place.run_folder(name)),
        settings,
        signed.to_bytes(),
        rosters.root_card(place).root,
        signing.load_key_file(place.run_key),
        coordinate.starting_model(settings),
    )
    sites = len(signed.roster.sites)
    needed = settings_of(settings, signed.roster).needed
    terminal.err.print(
        f"Began run {name} over version {signed.roster.version} of the roster: "
        f"{spare(sites, needed)}."
    )


def _conduct(place: CoordinatorHome, name: str, *, resume: bool) -> None:
    from server import superlink
    from server.cli_display import Display

    show = Display(name)
    try:
        superlink.conduct(place, name, show, resume_paused=resume)
    finally:
        show.close()
    if show.state != "finished":
        raise Refused(
            f"Run {name} is {show.state}: {show.pause or 'it was interrupted'}.",
            reason="paused",
            do="When the cause is gone: fedprint-coordinator start --resume",
        )
    terminal.out.print(f"Run {name} is finished.")
