"""Ledgers whose hospital has changed its identity key, before the auditor."""

from __future__ import annotations

from export_stand_ins import DELTA, Consortium, digest, public
from test_ledger_audit import audit, failures, line

from shared_model.ledger import Chain, Replaced


def test_a_key_that_was_rotated_between_rounds_is_followed() -> None:
    """Heads, replies and countersignatures before it count with the old key, after it with the new.

    The others hold heads by the old key and by the new one.
    """
    made = Consortium.after(rounds=2)
    made.rotate("alpha", "alpha-2")
    assert audit(made.files()).verdict == "OK"
    made.round("spring", 3)
    made.rotate("beta", "beta-2")
    made.round("spring", 4)
    found = audit(made.files())
    assert found.verdict == "OK", failures(found)


def test_a_ledger_that_goes_on_with_a_key_that_no_roster_names_is_refused() -> None:
    made = Consortium.after(rounds=2)
    alpha = made.hospitals["alpha"]
    made.rotate("alpha", "alpha-2")
    made.roster = made.roster.model_copy(update={"version": 3})
    files = made.files()
    files["alpha"] = made.file("alpha", rosters=made.documents)
    assert audit(files).verdict == "FAILED"
    assert alpha.chain.keys == (public("alpha"), public("alpha-2"))


def test_history_under_an_invented_key_before_the_present_one_is_found() -> None:
    """Whoever has the present key writes a past with fewer rounds, by a key of no roster."""
    made = Consortium.after(rounds=2)
    made.rotate("alpha", "alpha-2")
    files = made.files()
    alpha = made.hospitals["alpha"]
    alpha.signer, alpha.chain = "invented", Chain("alpha", public("invented"))
    alpha.append(
        made.hospitals["beta"].chain.opened.model_copy(
            update={"site": "alpha", "identity_key": public("invented").hex()}
        )
    )
    made.rotate("alpha", "alpha-2")
    assert alpha.chain.keys == (public("invented"), public("alpha-2"))
    files["alpha"] = made.file("alpha")
    assert audit(files).verdict == "FAILED"


def replaced(made: Consortium, previous: str, heir: str) -> Replaced:
    alpha = made.hospitals["alpha"]
    return Replaced(
        site="alpha",
        sequence=alpha.chain.length + 1,
        lost_from=0,
        lost_to=0,
        previous=alpha.chain.head,
        epsilon_charged=None,
        delta=DELTA,
        witnesses=("beta", "gamma"),
        evidence_digest=digest("evidence"),
        time_s=made.tick(),
        previous_key=public(previous).hex(),
        identity_key=public(heir).hex(),
    )


def test_a_replaced_key_without_its_evidence_is_incomplete_and_told_in_words() -> None:
    made = Consortium.after(rounds=2)
    made.rotate("alpha", "alpha-2", replaced(made, "alpha", "alpha-2"))
    made.round("spring", 3)
    found = audit(made.files())
    assert found.verdict == "INCOMPLETE", failures(found)
    told = line(found, "alpha: recovered")
    assert told.verdict == "CANNOT CHECK"
    assert "taken over by another key" in told.detail
