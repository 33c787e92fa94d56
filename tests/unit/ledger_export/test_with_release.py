"""Ledgers held against the lineage of a release."""

from __future__ import annotations

from dataclasses import replace

import pytest
from export_stand_ins import DECLARED, DELTA, PLAN, Consortium, digest, key_of, public

from auditor.ledger import Ledger
from auditor.ledger_examine import examine
from auditor.ledger_release import with_release
from auditor.verify import Finding
from shared_model import protocol
from shared_model.ledger import Booked, Chain, Replaced
from shared_model.protocol import LedgerNote, PrivacyStatement, TrainReply
from shared_model.release import (
    Contribution,
    Evidence,
    Lineage,
    Manifest,
    Plan,
    Round,
    SignedRound,
    SitePrivacy,
    WarmStart,
)
from shared_model.release_signed import Release


def reply_of(made: Consortium, booked: Booked, body: str) -> bytes:
    """What the hospital sent when it had booked and answered this round."""
    site = booked.site
    chain = made.hospitals[site].chain
    length = booked.sequence + 1
    from shared_model.ledger import sign_head

    head = sign_head(key_of(site), site, length, str(chain.head_at(length)))
    reply = TrainReply(
        run=booked.run,
        round=booked.round,
        site=site,
        request_digest=booked.request_digest,
        transcript=booked.transcript,
        body_digest=body,
        declared_patients=booked.declared_patients,
        weight=1,
        noise=booked.noise,
        private=True,
        privacy=PrivacyStatement(epsilon=booked.epsilon_lifetime, delta=DELTA),
        ledger=LedgerNote(**head.model_dump(), entries=()),
        software="test",
    )
    return protocol.seal(reply, key_of(site))


def release_of(made: Consortium, rounds: int, run: str = "spring") -> Release:
    """Of closed rounds, which need no sum; what is compared is the same."""
    steps, evidence = [], []
    for number in range(1, rounds + 1):
        contributors, replies = [], []
        for site in sorted(made.hospitals):
            booked = made.hospitals[site].chain.booking(run, number)
            assert booked is not None
            body = digest("body", site, run, number)
            header = reply_of(made, booked, body)
            replies.append(header.hex())
            contributors.append(
                Contribution(
                    site=site,
                    declared_patients=DECLARED[site],
                    weight=1,
                    noise=booked.noise,
                    delta=DELTA,
                    body_digest=body,
                    reply_digest=protocol.header_digest(header),
                )
            )
        steps.append(
            Round(
                run=run,
                number=number,
                outcome="closed",
                plan=Plan(**PLAN.as_dict()),
                shared_noise=None,
                request_digest=digest("request", run, number),
                model_in=digest("model", run, number - 1),
                model_out=digest("model", run, number - 1),
                contributors=tuple(contributors),
                sum=None,
            )
        )
        evidence.append(
            SignedRound(
                request="00",
                replies=tuple(replies),
                agreements=(),
                statement="",
                answers=(),
                receipts=(),
            )
        )
    lineage = Lineage(
        runs=(run,),
        warm_start=WarmStart(digest=digest("start"), origin="a test"),
        minimum_contributors=2,
        rounds=tuple(steps),
    )
    privacy = tuple(
        SitePrivacy(
            site=site,
            identity_key=public(site).hex(),
            epsilon=1.0,
            delta=DELTA,
            unit="one patient at one hospital",
            adjacency="add or remove one patient",
            trust_model="local",
            colluding_sites=None,
            outsider_epsilon=None,
            lifetime_epsilon=1.0,
            noise="noise",
            declared_patients=DECLARED[site],
            rounds=rounds,
            steps=rounds,
        )
        for site in sorted(made.hospitals)
    )
    manifest = Manifest.model_construct(number=1, lineage=lineage, privacy=privacy)
    return Release(manifest, {}, Evidence(rosters=("00",), rounds=tuple(evidence)))


def ledger_of(made: Consortium, site: str = "alpha", **changes: object) -> Ledger:
    found, _ = examine(site, made.file(site, **changes), public("root"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made() -> Consortium:
    return Consortium.after(rounds=3)


@pytest.fixture(scope="module")
def release(made: Consortium) -> Release:
    return release_of(made, 3)


def details(findings: list[Finding], verdict: str) -> str:
    return " ".join(item.detail for item in findings if item.verdict == verdict)


def test_ledgers_and_release_of_the_same_rounds_agree(made: Consortium, release: Release) -> None:
    findings = with_release([ledger_of(made, site) for site in made.hospitals], release)
    assert {item.verdict for item in findings} == {"OK"}
    assert "all 3 replies (30 steps)" in details(findings, "OK")


def test_a_hospital_whose_ledger_is_not_there_is_named(made: Consortium, release: Release) -> None:
    findings = with_release([ledger_of(made)], release)
    assert [item.check for item in findings if item.verdict == "CANNOT CHECK"] == [
        "beta: release",
        "gamma: release",
    ]


def test_a_round_of_the_release_that_is_not_in_the_ledger_is_found(
    made: Consortium, release: Release
) -> None:
    lines = made.hospitals["alpha"].lines
    for kept, words in (
        (6, "round 3 of run spring is in the release and not booked"),
        (7, "booked and not answered"),
    ):
        short = ledger_of(made, lines=lines[:kept], countersigned=[])
        assert words in details(with_release([short], release), "FAILED")


def test_a_round_that_the_release_leaves_out_is_listed(made: Consortium) -> None:
    findings = with_release([ledger_of(made)], release_of(made, 2))
    assert "round 3 of spring: booked and paid for" in details(findings, "OK")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("plan", {"plan": Plan(**replace(PLAN, steps=5).as_dict())}),
        ("model", {"model_in": digest("another")}),
        ("request", {"request_digest": digest("another")}),
    ],
)
def test_a_round_that_the_release_tells_otherwise_is_found(
    made: Consortium, release: Release, what: str, change: dict[str, object]
) -> None:
    lineage = release.manifest.lineage
    first = lineage.rounds[0].model_copy(update=change)
    bent = lineage.model_copy(update={"rounds": (first, *lineage.rounds[1:])})
    manifest = release.manifest.model_copy(update={"lineage": bent})
    found = with_release([ledger_of(made)], replace(release, manifest=manifest))
    assert f"round 1 of run spring: other {what} in the release" in details(found, "FAILED")


def test_another_body_than_the_one_that_was_answered_is_found(release: Release) -> None:
    other = Consortium.after(rounds=0)
    other.bodies["alpha", "spring", 1] = digest("another body")
    for number in (1, 2, 3):
        other.round("spring", number)
    found = with_release([ledger_of(other)], release)
    assert "other body in the release" in details(found, "FAILED")


def test_heads_in_the_replies_show_a_ledger_that_was_forked(release: Release) -> None:
    other = Consortium.after(rounds=0)
    other.clock_s += 1
    for number in (1, 2, 3):
        other.round("spring", number)
    assert "FORKED" in details(with_release([ledger_of(other)], release), "FAILED")


def test_a_round_among_lost_entries_under_a_lost_key_cannot_be_checked(
    made: Consortium, release: Release
) -> None:
    """The hospital lost key and entries, and says so: nothing of that is a forgery."""
    alpha = made.hospitals["alpha"]
    whole, kept = alpha.chain, 2
    alpha.chain = Chain.verified(alpha.lines[:kept], public("alpha"), site="alpha")
    entry = Replaced(
        site="alpha",
        sequence=whole.length + 1,
        lost_from=kept + 1,
        lost_to=whole.length,
        previous=whole.head,
        epsilon_charged=8.0,
        delta=DELTA,
        witnesses=("beta", "gamma"),
        evidence_digest=digest("evidence"),
        time_s=made.tick(),
        previous_key=public("alpha").hex(),
        identity_key=public("alpha-2").hex(),
    )
    made.rotate("alpha", "alpha-2", entry)
    found = with_release([ledger_of(made)], release)
    assert details(found, "FAILED") == ""
    assert "among the entries that are lost" in details(found, "CANNOT CHECK")
