"""The coordinator's loop: sites -> request -> replies -> aggregate -> checkpoint, round by round.

Used alike by the deployed ServerApp, by simulations and by tests: what differs is the `Transport`.

    folder = RunFolder(home.run_folder("spring"))
    begin(folder, config, roster, run_key, starting_model(config))       # once
    record = run(transport, folder, run_key, on_progress=print)          # again after any stop

`run` continues whatever the folder holds: a round that was open is continued with the very same
request (a node that had answered sends its stored reply again), replies that had been stored are
not asked again. It returns when the run is finished or paused, or when `stop()` says so; the
record says which.

What a restart costs: nothing if the round was open; a round that cannot be continued is closed and
the next number is used. What sites had spent on it stays spent.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import rounds
from server.aggregation import FedAvg, SiteUpdate, read_update, weighted_mean
from server.answers import read_answer
from server.checkpoints import (
    IncidentRecord,
    RoundRecord,
    RunFolder,
    RunRecord,
    StoredReply,
)
from server.desk import Desk, abandoned
from server.run_start import (
    StartingModel,
    begin,
    require_insecure_aggregation,
    settings_of,
    starting_model,
)
from server.transport import Incoming, Outgoing, Transport
from shared_model import canonical, protocol, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol import Refusal, TrainRequest
from shared_model.weights import Weights

__all__ = [
    "Progress",
    "StartingModel",
    "begin",
    "require_insecure_aggregation",
    "run",
    "settings_of",
    "starting_model",
]

MAX_PUSHES = 3
"""How often one request is sent to one site in one round, if the transport loses it."""

INSECURE_AGGREGATION = (
    "INSECURE AGGREGATION: updates reach the coordinator in clear. Each hospital's own noise "
    "protects its patients; nothing hides one hospital's update from the coordinator."
)


@dataclass(frozen=True)
class Progress:
    """One thing that happened, for the operator's eyes; nothing here is from patients.

    kind: "insecure-aggregation", "waiting", "opened", "sent", "accepted", "refused", "incident",
    "aggregated", "closed", "paused", "finished", "continued", "non-private".
    """

    kind: str
    round: int
    completed: int
    rounds: int
    site: str = ""
    detail: str = ""
    answered: int = 0
    asked: int = 0


def run(
    transport: Transport,
    folder: RunFolder,
    key: Ed25519PrivateKey,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    resume_paused: bool = False,
) -> RunRecord:
    """Continue the run in `folder` until it is finished or paused, or `stop()` is true.

    Args:
        clock: seconds, monotonic; deadlines. wall_clock: seconds since 1970; only for the record.
        wait: sleeps between two looks at the transport.
        resume_paused: the operator has read why rounds failed and wants to go on.

    Raises:
        Refused: another coordinator holds the folder ("busy"), the run is paused after failed
            rounds ("paused"), or insecure aggregation was not chosen.
        OurMistake: the folder is damaged, or the key is not the one that the run began with.
    """
    with folder.locked():
        record = folder.record()
        if signing.public_bytes(key).hex() != record.run_key:
            raise OurMistake("This is not the run key that the run began with.")
        require_insecure_aggregation(record.config)
        loop = _Loop(transport, folder, key, record, clock, wall_clock, on_progress)
        loop.restore(resume_paused)
        while loop.state.phase not in ("finished", "paused") and not stop():
            if not loop.turn():
                wait(record.config.poll_s)
        return loop.record


class _Loop:
    """Carries out the machine's actions; owns nothing that is not in the folder or replaceable."""

    def __init__(
        self,
        transport: Transport,
        folder: RunFolder,
        key: Ed25519PrivateKey,
        record: RunRecord,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.transport = transport
        self.folder = folder
        self.key = key
        self.record = record
        self.clock = clock
        self.wall_clock = wall_clock
        self.on_progress = on_progress
        self.roster = {item.site: item for item in record.roster}
        self.state = rounds.RunState(settings_of(record))
        self.server_step = FedAvg(record.config.server_learning_rate)
        self.weights: Weights = {}
        self.desk = Desk()
        self.events: deque[rounds.Event] = deque()

    # ------------------------------------------------------------ start

    def restore(self, resume_paused: bool) -> None:
        """Bring machine and model to where the folder stands."""
        record = self.record
        changes: dict[str, object] = {"starts": record.starts + 1, "state": "running", "pause": ""}
        state = rounds.replay(
            self.state.settings,
            [_closed(item) for item in record.rounds],
            resumed_after=record.resumed_after,
        )
        if resume_paused and state.phase != "finished":
            last = record.rounds[-1].round if record.rounds else 0
            changes["resumed_after"] = last
            state = rounds.replay(
                state.settings, [_closed(item) for item in record.rounds], resumed_after=last
            )
        if state.phase == "paused":
            raise Refused(
                f"Run {record.run} is paused: {state.failed_in_row} rounds in a row failed.",
                reason="paused",
                do="Read the last rounds in the run's record, then start with resume.",
            )
        if state.phase == "finished":
            self.state = state
            if record.state != "finished":
                self._save(state="finished", pause="")
            self._tell("finished")
            return
        self.record = record.model_copy(update=changes)
        self.folder.save(self.record)
        self.weights = self.folder.weights(self.record)
        self.state = state
        self._tell("insecure-aggregation", detail=INSECURE_AGGREGATION)
        stored = self.folder.stored_open_round(self.record)
        if stored is not None:
            self._continue(stored.number, stored.request, stored.replies)

    def _continue(self, number: int, header: bytes, replies: Sequence[StoredReply]) -> None:
        """Take up a round that was open, with the same request and the replies that had come."""
        body = weights_io.to_bytes(self.weights)
        try:
            request = protocol.open_train_request(header, signing.public_bytes(self.key))
            protocol.check_body(request.body_digest, body, site=protocol.COORDINATOR)
        except PeerFault:
            self._abandon(number, header)
            return
        self.state = rounds.reopened(self.state, number, request.sites)
        self.desk = Desk(request, header, body, opened_at=self.wall_clock())
        self.desk.skip = {reply.site for reply in replies}
        self._tell("continued", detail=f"{len(replies)} replies were stored")
        self._step(rounds.RoundOpened(self.clock(), protocol.header_digest(header)))
        for reply in replies:
            self._answer(reply.site, reply.header, reply.body)

    def _abandon(self, number: int, header: bytes) -> None:
        """Close a stored round that this version or this model cannot continue."""
        ended = abandoned(number, header, self.record.model_digest, self.wall_clock())
        self._save(rounds=(*self.record.rounds, ended))
        self.folder.forget_open_round(number)
        self.state = rounds.replay(
            self.state.settings,
            [_closed(item) for item in self.record.rounds],
            resumed_after=number,
        )
        self._tell("closed", detail="not-continued")

    # ------------------------------------------------------------ one turn

    def turn(self) -> bool:
        """Look once at the transport; True if something happened."""
        before = self.state
        if self.state.phase == "waiting":
            sites = frozenset(self.transport.sites()) & set(self.roster)
            self._step(rounds.SitesSeen(self.clock(), sites))
            if self.state.phase == "waiting" and not before.waiting_since:
                self._tell("waiting", detail=f"{len(sites)} of {len(self.roster)} sites are there")
        elif self.state.phase == "open":
            desk = self.desk
            for incoming in self.transport.pull(sorted(desk.asked)):
                if self.desk is desk:
                    self._incoming(incoming)
            if self.desk is desk and self.state.phase == "open":
                self._push_again()
                self._step(rounds.DeadlinePassed(self.clock()))
        return self.state != before

    def _step(self, event: rounds.Event) -> None:
        self.events.append(event)
        while self.events:
            self.state, actions = rounds.advance(self.state, self.events.popleft())
            for action in actions:
                self._do(action)

    def _do(self, action: rounds.Action) -> None:
        match action:
            case rounds.Open():
                self._open(action)
            case rounds.Push():
                self._push([site for site in action.sites if site not in self.desk.skip])
                self._tell("sent", detail=", ".join(action.sites))
            case rounds.Accept():
                site = action.contribution.site
                self.folder.store_reply(action.number, self.desk.replies.pop(site))
                self._tell("accepted", site=site)
            case rounds.Incident():
                self.desk.incidents.append(IncidentRecord(site=action.site, reason=action.reason))
                self._tell("incident", site=action.site, detail=action.reason)
            case rounds.Aggregate():
                self._aggregate(action)
            case rounds.CloseRound():
                self._end("closed", action.contributions, action.ended, reason=action.reason)
                self._tell("closed", detail=action.reason)
            case rounds.Pause():
                self._save(state="paused", pause=action.reason)
                self._tell("paused", detail=PAUSES[action.reason])
            case rounds.Finish():
                self._save(state="finished")
                self._tell("finished")

    def _open(self, action: rounds.Open) -> None:
        record = self.record
        config = record.config
        body = weights_io.to_bytes(self.weights)
        request = TrainRequest(
            run=record.run,
            round=action.number,
            start=record.starts,
            preset=record.model.preset,
            config_digest=record.model.digest,
            model_digest=record.model_digest,
            body_digest=canonical.digest(body),
            privacy=config.privacy,
            training=config.training,
            participants=tuple(self.roster[site].participant for site in action.participants),
            minimum_contributors=config.minimum_contributors,
            insecure_aggregation=record.insecure_aggregation,
            deadline_s=config.deadline_s,
            software=record.software,
        )
        header = protocol.seal(request, self.key)
        self.folder.open_round(action.number, header)
        self.desk = Desk(
            protocol.open_train_request(header, signing.public_bytes(self.key)),
            header,
            body,
            opened_at=self.wall_clock(),
        )
        self._tell("opened", detail=", ".join(action.participants))
        self.events.append(rounds.RoundOpened(self.clock(), protocol.header_digest(header)))

    # ------------------------------------------------------------ messages

    def _push(self, sites: Sequence[str]) -> None:
        desk = self.desk
        messages = [Outgoing(site, "train", desk.header, desk.body) for site in sites]
        for site, identifier in zip(sites, self.transport.push(messages), strict=True):
            desk.pushes[site] = desk.pushes.get(site, 0) + 1
            if identifier:
                desk.asked[identifier] = site
                desk.unsent.pop(site, None)
            else:
                desk.unsent.setdefault(site, self.clock())

    def _push_again(self) -> None:
        """Send the same request again where the transport lost it; give up in the end."""
        desk = self.desk
        if not desk.unsent:
            return
        online = self.transport.sites()
        again = [site for site in desk.unsent if site in online and desk.pushes[site] < MAX_PUSHES]
        if again:
            self._push(again)
        for site, since in list(desk.unsent.items()):
            gone = self.clock() - since >= self.record.config.gather_s
            if desk.pushes[site] >= MAX_PUSHES or (gone and site not in online):
                del desk.unsent[site]
                self._step(rounds.SiteLost(site, self.state.round))
                if self.desk is not desk:
                    return

    def _incoming(self, incoming: Incoming) -> None:
        site = self.desk.asked.pop(incoming.id, None)
        if site is None or site != incoming.site:
            return  # not one of the ids that were asked for: the transport's own confusion
        if incoming.error:
            self.desk.unsent.setdefault(site, self.clock())
            return
        self._answer(site, incoming.header, incoming.body)

    def _answer(self, site: str, header: bytes, body: bytes) -> None:
        """What came as the site's answer; whatever it is, the site has had its turn."""
        number = self.state.round
        desk = self.desk
        try:
            answer = read_answer(
                header,
                body,
                enrolled=self.roster[site],
                request=desk.asked_for,
                trainable=self._trainable(),
            )
        except PeerFault as fault:
            self._tell("incident", site=site, detail=fault.message)
            self._step(rounds.FaultyReply(site, number))
            return
        if isinstance(answer, Refusal):
            desk.refusals[site] = (answer, header)
            self._tell("refused", site=site, detail=answer.reason)
            self._step(
                rounds.RefusalArrived(
                    site, answer.run, answer.round, answer.request_digest, answer.reason
                )
            )
        else:
            desk.replies.setdefault(site, StoredReply(site, header, body))
            desk.answers.setdefault(site, (answer, header))
            if not answer.private:
                self._tell("non-private", site=site, detail=answer.noise)
            self._step(
                rounds.ReplyArrived(
                    site,
                    answer.run,
                    answer.round,
                    answer.request_digest,
                    answer.update_digest,
                    answer.weight,
                )
            )
        if self.desk is desk and self.state.current and site in self.state.current.silent:
            self._step(rounds.SiteLost(site, number))

    def _trainable(self) -> Mapping[str, np.ndarray]:
        return {name: self.weights[name] for name in self.record.trainable}

    # ------------------------------------------------------------ ends of rounds

    def _aggregate(self, action: rounds.Aggregate) -> None:
        updates = []
        for item in action.contributions:
            stored = self.folder.stored_reply(action.number, item.site)
            update = read_update(stored.body, self._trainable(), item.update_digest, site=item.site)
            updates.append(SiteUpdate(item.site, item.weight, update))
        self.weights = self.server_step.apply(self.weights, weighted_mean(updates))
        self.folder.save_weights(action.number, self.weights)
        digest = weights_io.digest(self.weights)
        self._end("aggregated", action.contributions, action.ended, model_out=digest)
        self.events.append(rounds.Aggregated(action.number, digest))
        self._tell("aggregated", detail=digest)

    def _end(
        self,
        outcome: Literal["aggregated", "closed"],
        contributions: Sequence[rounds.Contribution],
        ended: Mapping[str, rounds.Ending],
        *,
        reason: str = "",
        model_out: str | None = None,
    ) -> None:
        """Commit the record of the round, then forget what was stored while it was open."""
        model_in = self.record.model_digest
        done = self.desk.record(
            outcome,
            contributions,
            ended,
            reason=reason,
            model_in=model_in,
            model_out=model_out or model_in,
            ended_at=self.wall_clock(),
        )
        self._save(rounds=(*self.record.rounds, done))
        self.folder.forget_open_round(done.round)
        self.desk = Desk()

    def _save(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)
        self.folder.save(self.record)

    def _tell(self, kind: str, *, site: str = "", detail: str = "") -> None:
        current = self.state.current
        asked = len(current.participants) if current else 0
        answered = asked - len(current.silent) if current else 0
        self.on_progress(
            Progress(
                kind,
                self.state.round,
                self.record.completed,
                self.record.config.rounds,
                site,
                detail,
                answered,
                asked,
            )
        )


PAUSES: Mapping[str, str] = {
    "budget": "too few hospitals have privacy budget left for another round",
    "too-few-sites": "too few hospitals were there for as long as the run was to wait",
    "failed-rounds": "too many rounds in a row had fewer contributors than the minimum",
}


def _closed(item: RoundRecord) -> rounds.ClosedRound:
    return rounds.ClosedRound(
        number=item.round,
        aggregated=item.outcome == "aggregated",
        exhausted=frozenset(absent.site for absent in item.absent if absent.reason == "budget"),
        incidents=tuple(incident.site for incident in item.incidents),
    )
