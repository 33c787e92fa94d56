"""What an audit of exported ledgers finds, and that an honest consortium passes."""

from __future__ import annotations

from functools import cache

import pytest
from export_stand_ins import DELTA, Consortium, key_of, public, resigned

from auditor.ledger_audit import LedgerAudit, audit_ledgers
from auditor.verify import Finding
from shared_model import accounting
from shared_model.config import PrivacyPlan
from shared_model.ledger import Booked, Incident


@cache
def _prv(plans: tuple[PrivacyPlan, ...], delta: float) -> float:
    return accounting.epsilon_prv(plans, delta)


PAIR = (accounting.epsilon_pld, lambda plans, delta: _prv(tuple(plans), delta))


def audit(files: dict[str, bytes], **changes: object) -> LedgerAudit:
    values = {"root_key": public("root"), "accountants": PAIR, "run_key": public("run")}
    return audit_ledgers(files, **{**values, **changes})  # type: ignore[arg-type]


def failures(found: LedgerAudit) -> list[Finding]:
    return [item for item in found.findings if item.verdict == "FAILED"]


def line(found: LedgerAudit, check: str) -> Finding:
    (item,) = [one for one in found.findings if one.check == check]
    return item


def test_an_honest_consortium_passes(three: Consortium) -> None:
    found = audit(three.files())
    assert not failures(found)
    assert found.verdict == "OK"
    assert len(found.ledgers) == 3


def test_both_accountants_and_the_entries_are_told_and_agree(three: Consortium) -> None:
    found = audit(three.files())
    for one in found.ledgers:
        assert one.price is not None
        life = one.price.life
        assert life is not None
        assert life.pld == pytest.approx(life.prv, rel=0.01)
        assert life.stated == life.pld
        assert life.delta == DELTA


def test_one_file_alone_is_countersigned_by_the_agreements_in_it(three: Consortium) -> None:
    found = audit({"alpha": three.file("alpha")})
    assert found.verdict == "OK"
    assert "up to entry 10" in line(found, "alpha: seen by others").detail


def test_without_the_coordinators_key_its_signature_cannot_be_checked(three: Consortium) -> None:
    found = audit(three.files(), run_key=None)
    assert found.verdict == "OK"
    assert line(found, "alpha: coordinator").verdict == "CANNOT CHECK"


def test_a_ledger_that_nobody_has_countersigned_is_incomplete(three: Consortium) -> None:
    found = audit({"alpha": three.file("alpha", countersigned=[], witnessed={})})
    assert found.verdict == "INCOMPLETE"


def test_what_nobody_has_seen_yet_is_counted(three: Consortium) -> None:
    grown = Consortium.after(rounds=2)
    grown.book("alpha", "spring", 3)
    found = audit(grown.files())
    assert found.verdict == "OK"
    assert "the last entry by nobody yet" in line(found, "alpha: seen by others").detail


def test_an_empty_ledger_has_spent_nothing() -> None:
    nobody = Consortium.after(rounds=1)
    found = audit({"alpha": nobody.file("alpha", lines=[], countersigned=[], witnessed={})})
    assert found.verdict == "OK"


# What one file shows


def test_a_file_without_the_hospital_in_its_rosters_is_refused() -> None:
    small = Consortium.after(rounds=1)
    other = Consortium.after(rounds=1, sites=("beta", "gamma"))
    found = audit({"alpha": small.file("alpha", rosters=[other.document()])})
    assert failures(found)[0].check == "alpha: signature"


def test_a_file_of_another_root_is_refused(three: Consortium) -> None:
    found = audit(three.files(), root_key=public("another root"))
    assert len(failures(found)) == 3


def test_the_first_bad_entry_is_named(three: Consortium) -> None:
    lines = three.hospitals["alpha"].lines
    found = audit({"alpha": three.file("alpha", lines=[*lines[:4], *lines[5:]])})
    assert "Entry 5" in line(found, "alpha: chain").detail


def test_another_key_in_a_newer_roster_is_found(three: Consortium) -> None:
    from shared_model import roster

    newer = three.roster.model_copy(
        update={
            "version": 2,
            "sites": tuple(
                one.model_copy(update={"identity_key": public("thief").hex()})
                if one.site == "alpha"
                else one
                for one in three.roster.sites
            ),
        }
    )
    document = roster.sign(newer, key_of("root")).to_bytes()
    files = {
        "alpha": three.file("alpha"),
        "beta": three.file("beta", rosters=[three.document(), document]),
    }
    assert "alpha: key" in [item.check for item in failures(audit(files))]


def test_a_request_of_another_run_key_is_found(three: Consortium) -> None:
    forged, agreements = three.agreed("spring", 4, run_key="thief")
    found = audit({"a": three.file("alpha", countersigned=[("spring", 4, forged, agreements)])})
    assert failures(found)[0].check == "alpha: countersignatures"


def test_an_agreement_that_another_key_signed_is_found(three: Consortium) -> None:
    run, number, request, agreements = three.hospitals["alpha"].rounds[-1]
    forged = {**agreements, "beta": agreements["gamma"]}
    found = audit({"a": three.file("alpha", countersigned=[(run, number, request, forged)])})
    assert failures(found)[0].check == "alpha: countersignatures"


def test_a_head_that_a_hospital_did_not_sign_accuses_nobody_else(three: Consortium) -> None:
    honest = three.hospitals["alpha"].witnessed
    forged = {**honest, "beta": honest["beta"].model_copy(update={"length": 99})}
    found = audit({**three.files(), "alpha": three.file("alpha", witnessed=forged)})
    assert [item.check for item in failures(found)] == ["alpha: witnessed heads"]


def test_more_rounds_than_approved_are_found() -> None:
    made = Consortium.after(rounds=2)
    made.approve("spring", bookings=1)
    made.round("spring", 3)
    made.round("spring", 4)
    assert "one more" in line(audit(made.files()), "alpha: approvals").detail


def test_rounds_of_a_run_that_nobody_approved_are_found() -> None:
    made = Consortium.after(rounds=1)
    made.round("wild", 1)
    assert "wild" in line(audit(made.files()), "alpha: approvals").detail


def test_an_incident_is_told(three: Consortium) -> None:
    made = Consortium.after(rounds=1)
    made.hospitals["alpha"].append(
        Incident(site="alpha", sequence=5, run="spring", round=1, reason="conflict")
    )
    found = audit(made.files())
    assert "conflict" in line(found, "alpha: incidents").detail
    assert found.verdict == "OK"


# What was spent


def doctored(made: Consortium, **changes: object) -> bytes:
    """The file of alpha, whose last booking says something else and is signed again."""
    entries = [link.entry for link in made.hospitals["alpha"].chain.links]
    at = max(i for i, entry in enumerate(entries) if isinstance(entry, Booked))
    entries[at] = entries[at].model_copy(update=changes)
    return made.file("alpha", lines=resigned(entries, "alpha"), countersigned=[])


def test_a_stated_epsilon_that_is_too_low_is_found(three: Consortium) -> None:
    last = three.hospitals["alpha"].chain.bookings[-1]
    low = doctored(three, epsilon_lifetime=0.95 * (last.epsilon_lifetime or 0.0))
    found = audit({"alpha": low})
    assert "the entries state another epsilon" in line(found, "alpha: epsilon of life").detail
    assert found.verdict == "FAILED"


def test_a_limit_that_was_crossed_is_found(three: Consortium) -> None:
    assert (
        "crosses" in line(audit({"a": doctored(three, limit_lifetime=1.0)}), "alpha: limits").detail
    )
    assert "crosses" in line(audit({"a": doctored(three, limit_run=1.0)}), "alpha: limits").detail


def test_a_limit_is_held_against_what_was_counted_not_against_what_is_stated(
    three: Consortium,
) -> None:
    low = doctored(three, limit_lifetime=1.0, epsilon_lifetime=0.99, epsilon_run=0.99)
    assert line(audit({"a": low}), "alpha: limits").verdict == "FAILED"


def test_noise_that_is_not_private_promises_nothing(three: Consortium) -> None:
    found = audit({"alpha": doctored(three, private=False)})
    assert "NOTHING IS PROMISED" in line(found, "alpha: epsilon of life").detail


def test_accountants_that_differ_are_found(three: Consortium) -> None:
    pair = (accounting.epsilon_pld, lambda plans, delta: 2.0 * accounting.epsilon_pld(plans, delta))
    found = audit(three.files(), accountants=pair)
    assert "the two accountants differ" in line(found, "alpha: epsilon of life").detail


def test_an_accountant_that_was_not_in_time_is_never_ok(three: Consortium) -> None:
    found = audit(three.files(), accountants=(accounting.epsilon_pld, lambda plans, delta: None))
    assert line(found, "alpha: epsilon of life").verdict == "CANNOT CHECK"
    assert found.verdict == "INCOMPLETE"


def test_twenty_rounds_of_fifty_steps_cost_25_and_not_5() -> None:
    plan = PrivacyPlan(0.1, 1.0, 1.0, 50)
    made = Consortium.after(rounds=0, limits=(30.0, 30.0), sites=("alpha", "beta", "gamma"))
    made.approve("long", bookings=20, epsilon=30.0)
    for number in range(1, 21):
        made.round("long", number, plan)
    found = audit(made.files())
    assert found.verdict == "OK"
    life = found.ledgers[0].price.life  # type: ignore[union-attr]
    assert life.pld == pytest.approx(25.2, rel=0.01)
    assert life.prv == pytest.approx(25.2, rel=0.01)


def test_an_accountant_that_forgets_every_round_is_found() -> None:
    plan = PrivacyPlan(0.1, 1.0, 1.0, 50)
    made = Consortium.after(rounds=1, limits=(30.0, 30.0), plan=plan)
    reset = made.hospitals["alpha"].chain.bookings[0].epsilon_lifetime
    made.round("spring", 2, plan)
    found = audit({"a": doctored(made, epsilon_lifetime=reset, epsilon_run=reset)})
    assert line(found, "alpha: epsilon of life").verdict == "FAILED"


def test_mode_distributed_is_counted_for_insiders_and_for_outsiders() -> None:
    plan = PrivacyPlan(0.1, 2.0, 1.0, 1, "distributed")
    made = Consortium.after(rounds=2, threshold=3, plan=plan)
    made.round("spring", 3)
    found = audit(made.files())
    assert found.verdict == "OK"
    price = found.ledgers[0].price
    assert price is not None
    assert price.life is not None
    assert price.outsider is not None
    assert price.life.pld > price.outsider.pld > 0.0  # type: ignore[operator]
    assert price.outsider.prv == pytest.approx(price.outsider.pld, abs=0.005)
    assert "against 1 hospitals" in line(found, "alpha: epsilon of life").detail
    assert "against 0 hospitals" in line(found, "alpha: epsilon of life, outsiders").detail


def test_an_outsiders_epsilon_that_is_too_low_is_found() -> None:
    plan = PrivacyPlan(0.1, 2.0, 1.0, 1, "distributed")
    made = Consortium.after(rounds=2, threshold=3, plan=plan)
    found = audit({"a": doctored(made, outsider_epsilon_lifetime=1e-3)})
    assert line(found, "alpha: epsilon of life, outsiders").verdict == "FAILED"


def test_rounds_of_an_older_spend_table_are_counted_and_named() -> None:
    made = Consortium.after(rounds=0)
    one = made.hospitals["alpha"]
    one.chain = one.chain.verified(one.lines[:1], public("alpha"), site="alpha")
    draft = made.draft("alpha", "old", 1)
    nothing = {"roster_digest": "0" * 64, "limit_lifetime": None, "limit_run": None}
    one.append(draft.model_copy(update=nothing))
    made.approve("spring", bookings=1)
    made.round("spring", 1)
    found = audit({"alpha": made.file("alpha")})
    assert line(found, "alpha: older rounds").verdict == "CANNOT CHECK"
    assert found.verdict == "OK"
    late = made.draft("alpha", "old", 2).model_copy(update=nothing)
    one.append(late)
    assert line(audit({"alpha": made.file("alpha")}), "alpha: rosters").verdict == "FAILED"


# What other files show


@pytest.mark.parametrize("kept", [4, 6, 8, 9])
def test_a_ledger_that_was_rolled_back_is_found_by_what_another_hospital_holds(
    three: Consortium, kept: int
) -> None:
    lines = three.hospitals["alpha"].lines[:kept]
    short = three.file("alpha", lines=lines, countersigned=[])
    assert audit({"alpha": short}).verdict == "INCOMPLETE"
    for other in ("beta", "gamma"):
        found = audit({"alpha": short, other: three.file(other)})
        told = [item.detail for item in failures(found)]
        assert any("ROLLED BACK" in text and other in text and "alpha" in text for text in told)


def test_a_history_that_was_written_again_is_found_by_what_another_hospital_holds(
    three: Consortium,
) -> None:
    changed = doctored(three, steps=1)
    found = audit({"alpha": changed, "beta": three.file("beta")})
    assert any("FORKED" in item.detail and "beta" in item.detail for item in failures(found))


def test_a_history_that_was_written_again_is_found_by_its_own_countersignatures(
    three: Consortium,
) -> None:
    entries = [link.entry for link in three.hospitals["alpha"].chain.links]
    entries[2] = entries[2].model_copy(update={"steps": 1})
    found = audit({"alpha": three.file("alpha", lines=resigned(entries, "alpha"))})
    assert line(found, "alpha: countersignatures").verdict == "FAILED"


def test_two_files_of_one_hospital_must_continue_each_other(three: Consortium) -> None:
    lines = three.hospitals["alpha"].lines
    old = three.file("alpha", lines=lines[:6], countersigned=[])
    entries = [link.entry for link in three.hospitals["alpha"].chain.links]
    entries[2] = entries[2].model_copy(update={"steps": 1})
    other = three.file("alpha", lines=resigned(entries, "alpha"), countersigned=[])
    found = audit({"old": old, "other": other})
    assert "alpha: two files" in [item.check for item in failures(found)]
