"""The tables of an experiment's file: every field, its default, and what fits beside what.

    Privacy(mode="distributed", epsilon=3.0)          # frozen; a wrong value is refused at once

Docstrings are what `fedprint-lab new` writes as comments. The whole file is
`simulations.lab.experiment.Experiment`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared_model.config import LocalTraining, ServerMoments, Trainable
from shared_model.protocol import PresetName

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
MAX_HOSPITALS = 10_000


class Part(BaseModel):
    """A table of the file: frozen, no unknown field, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(Part):
    """What is trained, and from where it begins.

    weights: safetensors to begin with, in place of `begin_with`.
    trainable: what hospitals train. head: bottleneck, fingerprint path, all LayerNorms; bottleneck:
        without the LayerNorms of encoders and decoders; norms: LayerNorms and fingerprint path;
        adapters: low-rank factors on encoders and bottleneck (2106.09685), merged after each round;
        all: every parameter.
    """

    preset: PresetName = "tiny"
    begin_with: Literal["warm-start", "random-weights"] = "warm-start"
    weights: str | None = None
    trainable: Trainable = "head"


class Partition(Part):
    """How a pool of patients is shared out. Every patient stays whole, at one hospital.

    natural: as the source gives them (one folder, or one kind of pretend hospital, a site).
    iid: at random, equal numbers.
    dirichlet: shares of each value of `label` drawn from Dirichlet(alpha) (1909.06335).
    pathological: each hospital has `classes_per_site` values of `label` only (1602.05629).
    size: numbers of patients grow `linear`ly, as `square` or `exponential`ly with the site's rank.
    id: one hospital for each value of `label`, as many as there are.
    """

    kind: Literal["natural", "iid", "dirichlet", "pathological", "size", "id"] = "natural"
    label: str = "rhythm"
    alpha: Positive = 0.5
    classes_per_site: Annotated[int, Field(ge=1, le=1000)] = 2
    growth: Literal["linear", "square", "exponential"] = "linear"
    smallest: Annotated[int, Field(ge=2)] = 4
    """No hospital gets fewer patients; drawn again until it is so."""


class Chosen(Part):
    """Which sites are meant: by name, or a share of all drawn with the experiment's seed."""

    sites: tuple[str, ...] = ()
    share: Share | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Chosen:
        if bool(self.sites) == (self.share is not None):
            raise ValueError("name sites, or give a share of them")
        return self


class SiteEffect(Chosen):
    """What the devices of the chosen sites do to each window.

    Gains multiply the raw signal before it is standardised (so they show through noise and
    saturation only). Bands in Hz are filtered with Butterworth filters of order 2. A sampling rate
    is resampled down to, and back to 125 Hz. missing_*: share of patients without that sensor.
    noise: white noise added, in standard deviations of the channel.
    """

    ecg_gain: Positive = 1.0
    ppg_gain: Positive = 1.0
    ecg_noise: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    ppg_noise: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    ecg_band_hz: tuple[float, float] | None = None
    ppg_band_hz: tuple[float, float] | None = None
    ecg_fs_hz: Annotated[float, Field(ge=20.0, le=125.0)] | None = None
    ppg_fs_hz: Annotated[float, Field(ge=20.0, le=125.0)] | None = None
    missing_ecg: Share = 0.0
    missing_ppg: Share = 0.0
    saturation: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """Clip beyond so many standard deviations, after gain."""
    invert_ecg: bool = False


class Federation(Part):
    """Whose patients train.

    source: "simulated" draws pretend patients; "folders" reads real recordings; "waves" are noisy
        sines without any meaning, for timing only (the report says so).
    folders: real sites, one folder each; with a partition other than natural they are one pool.
    patients: of each hospital on average.
    windows_per_patient: as drawn; a window that the quality gate refuses is left out, as in a
        hospital's store. Both are ignored for folders: all their patients and usable windows count.
    lots: of folders, only patients whose lot is in [first, end) are read. The lot follows from the
        patient's name alone (simulations/lots.py); `fedprint-lab probe --unseen-by RUN` probes the
        others.
    held_out: share of each site's patients that never trains; probes and losses are of these.
    """

    source: Literal["simulated", "folders", "waves"] = "simulated"
    folders: tuple[str, ...] = ()
    lots: tuple[Share, Share] = (0.0, 1.0)
    hospitals: Annotated[int, Field(ge=1, le=MAX_HOSPITALS)] = 10
    patients: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    windows_per_patient: Annotated[int, Field(ge=1, le=1000)] = 6
    held_out: Annotated[float, Field(ge=0.0, lt=0.9)] = 0.2
    partition: Partition = Partition()
    effects: tuple[SiteEffect, ...] = ()

    @model_validator(mode="after")
    def _source_fits(self) -> Federation:
        if (self.source == "folders") != bool(self.folders):
            raise ValueError('folders and source = "folders" go together')
        if self.lots[0] >= self.lots[1]:
            raise ValueError("lots are [first, end), and first is less than end")
        if self.lots != (0.0, 1.0) and not self.folders:
            raise ValueError("lots choose among the patients of folders; none are given")
        return self


class Behaviour(Chosen):
    """What the chosen sites do to the federation.

    straggler: takes `factor` times as long as others (virtual time, see `Participation`).
    drop-out: does not answer a round, with probability `probability`.
    link: each message is lost with `probability`, and sent again at most `tries` times.
    sign-flip: sends minus its update. scaled: sends `factor` times its update.
    backdoor: trains on windows with a trigger and another patient's target, and scales by `factor`.
    free-rider: trains nothing; sends noise of the size of `factor` x the last mean update.
    """

    kind: Literal["straggler", "drop-out", "link", "sign-flip", "scaled", "backdoor", "free-rider"]
    probability: Share = 1.0
    factor: Annotated[float, Field(ge=0.0, le=1e6)] = 10.0
    tries: Annotated[int, Field(ge=0, le=100)] = 2
    from_round: Annotated[int, Field(ge=1)] = 1


class Participation(Part):
    """Who is asked, and how long is waited.

    sites_per_round: drawn from all, with the experiment's seed; all by default.
    minimum_contributors: fewer survivors, and the round is closed without a sum.
    step_s, deadline_s: virtual time: a site takes step_s x steps, a straggler its factor times as
        long, and comes too late after deadline_s. Nothing is waited for in fact.
    """

    sites_per_round: Annotated[int, Field(ge=1)] | None = None
    minimum_contributors: Annotated[int, Field(ge=1)] = 3
    step_s: Positive = 1.0
    deadline_s: Positive | None = None


class Algorithm(Part):
    """How a round is trained and what becomes of its mean.

    name: what the server does: fedavg (1602.05629), fedadam, fedyogi (2003.00295). These two move
        every trained parameter by about server_learning_rate a round (in mode distributed times
        learning_rate), so that it has to be said: at most 0.1.
    proximal_weight: mu of FedProx (1812.06127), added to every local step; 0: none.
    local_norms: each site keeps its own LayerNorm parameters (as FedBN, 2102.07623): they are
        trained there and not sent.
    control_variates: SCAFFOLD (1910.06378), option II, at the sites and at the server.
    norm_bound: L2 bound on an update; by default the one of a deployed run.
    bits: of the quantisation; by default 20, or as many as fit 32 bits with so many hospitals.
    """

    name: Literal["fedavg", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    proximal_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    local_norms: bool = False
    control_variates: bool = False
    steps: Annotated[int, Field(ge=1, le=100_000)] = 5
    learning_rate: Annotated[float, Field(gt=0.0, lt=10.0)] = 1e-3
    optimiser: Literal["sgd", "adam"] = "adam"
    segments: Annotated[int, Field(ge=1, le=64)] = 2
    patch_masks: Annotated[int, Field(ge=1, le=16)] = 1
    cross_modal_weight: Annotated[float, Field(ge=0.0, le=1e3)] = 1.0
    alignment_weight: Annotated[float, Field(ge=0.0, le=1e3)] = 0.1
    contrast_weight: Annotated[float, Field(ge=0.0, le=1e3)] = 0.0
    norm_bound: Annotated[float, Field(gt=1e-12, lt=1e12)] | None = None
    bits: Annotated[int, Field(ge=8, le=24)] | None = None

    @property
    def moments(self) -> ServerMoments | None:
        """beta1, beta2 and tau of a server step that has them."""
        if self.name == "fedavg":
            return None
        return ServerMoments(self.beta1, self.beta2, self.tau)

    def training(self, trainable: Trainable) -> LocalTraining:
        """What the hospitals' own training takes."""
        return LocalTraining(
            segments=self.segments,
            patch_masks=self.patch_masks,
            learning_rate=self.learning_rate,
            optimiser=self.optimiser,
            trainable=trainable,
            cross_modal_weight=self.cross_modal_weight,
            alignment_weight=self.alignment_weight,
            contrast_weight=self.contrast_weight,
            proximal_weight=self.proximal_weight,
        )


class Privacy(Part):
    """Trust model and budget.

    mode: local and distributed as in hospitals; none: no noise, no clipping, no privacy.
    epsilon: what each hospital's patients may lose over all rounds: the noise multiplier follows;
        or give `noise_multiplier`, and epsilon follows.
    delta: by default that of a hospital's policy, from the smallest declared number of patients.
    noise: "NonPrivateForTests" repeats itself bit by bit and promises nothing, though everything is
        computed as if it did; "system" is the operating system's, and no two runs are equal.
    threshold: mode distributed: fewest survivors, for whom the noise is sized; by default a
        majority of the hospitals that are asked. colluding: sites whose share of it may be known.
    """

    mode: Literal["local", "distributed", "none"] = "local"
    epsilon: Annotated[float, Field(gt=0.0, le=1e4)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0.0, lt=1e4)] | None = None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    clipping_norm: Annotated[float, Field(gt=0.0, lt=1e4)] = 1.0
    noise: Literal["NonPrivateForTests", "system"] = "NonPrivateForTests"
    threshold: Annotated[int, Field(ge=2)] | None = None
    colluding: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _says_how_much(self) -> Privacy:
        given = (self.epsilon is not None) + (self.noise_multiplier is not None)
        if self.mode == "none" and given:
            raise ValueError("mode none has no epsilon and no noise_multiplier")
        if self.mode != "none" and given != 1:
            raise ValueError("give epsilon or noise_multiplier, one of the two")
        return self


class Evaluation(Part):
    """What is measured on held-out patients, and how often. Decides nothing about the model.

    probes: labels of the source; those that it has by default.
    """

    every: Annotated[int, Field(ge=1)] = 5
    probes: tuple[str, ...] | None = None
    draws: Annotated[int, Field(ge=20, le=100_000)] = 200
    most_patients: Annotated[int, Field(ge=10)] = 400
    reconstructions: Annotated[int, Field(ge=0, le=100)] = 4


class Engine(Part):
    """Where it is computed. Decides nothing about the model.

    kind: in-process, a pool of `workers` processes (0: as many as cores); or flower, Flower's
        simulation engine on Ray. address: of a running Ray cluster; none: one on this machine.
    """

    kind: Literal["in-process", "flower"] = "in-process"
    workers: Annotated[int, Field(ge=0, le=4096)] = 0
    address: str | None = None
    cpus_per_client: Annotated[float, Field(gt=0.0, le=1024.0)] = 1.0
    gpus_per_client: Annotated[float, Field(ge=0.0, le=64.0)] = 0.0


class Tracking(Part):
    """Who is told. TensorBoard files are always written; the others need an extra each.

    mlflow: address of a tracking server or database, or a folder. wandb: name of a project.
    """

    mlflow: str | None = None
    wandb: str | None = None
