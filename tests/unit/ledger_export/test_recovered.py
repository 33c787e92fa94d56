"""Ledgers that go on after a restore: what can be checked of it, and that no loss is ever OK."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from export_stand_ins import DELTA, Consortium, Hospital, digest, key_of, public
from test_ledger_audit import audit, failures, line
from test_with_release import release_of
from typer.testing import CliRunner

from auditor.cli import app
from auditor.ledger_examine import examine
from auditor.ledger_release import with_release
from shared_model import accounting, enrolment
from shared_model.ledger import Booked, Chain, Recovered


def left(made: Consortium, kept: int) -> float:
    """What an honest hospital charges for all after these entries."""
    links = made.hospitals["alpha"].chain.links[:kept]
    spent = [link.entry.epsilon_lifetime or 0.0 for link in links if isinstance(link.entry, Booked)]
    return made.limits[0] - max(spent, default=0.0)


@pytest.fixture(scope="module")
def lossy() -> Consortium:
    """Alpha keeps two of four rounds, and pays all for the rest."""
    made = Consortium.after(rounds=4)
    made.recover("alpha", 6, charge=left(made, 6))
    return made


def test_entries_that_all_came_back_may_be_ok() -> None:
    made = Consortium.after(rounds=3)
    made.recover("alpha", 4)
    found = audit(made.files())
    assert found.verdict == "OK", failures(found)
    assert line(found, "alpha: recovered").verdict == "OK"


def test_a_loss_is_never_ok_and_says_whose_word_it_is(lossy: Consortium) -> None:
    found = audit(lossy.files())
    assert not failures(found)
    assert found.verdict == "INCOMPLETE"
    whole = line(found, "all ledgers").detail
    for words in ("entries 7 to 10 are lost", "own word", "not what anybody has verified"):
        assert words in whole
    assert line(found, "alpha: epsilon of life").verdict == "CANNOT CHECK"
    life = found.ledgers[0].price.life  # type: ignore[union-attr]
    assert life.pld == pytest.approx(lossy.limits[0])  # type: ignore[union-attr]
    assert life.delta == 2 * DELTA  # type: ignore[union-attr]
    assert "limits they were booked is not known" in line(found, "alpha: charge").detail


def test_a_loss_without_a_range_is_not_ok_either() -> None:
    made = Consortium.after(rounds=2)
    made.recover("alpha", 6)
    one = made.hospitals["alpha"]
    entry = one.chain.links[-1].entry.model_copy(update={"epsilon_charged": left(made, 6)})
    one.chain = Chain.verified(one.lines[:-1], public("alpha"), site="alpha")
    one.append(entry)
    found = audit(made.files())
    assert not failures(found)
    assert found.verdict == "INCOMPLETE"
    assert "nobody knows how many, are lost" in line(found, "all ledgers").detail


def test_a_forged_loss_with_a_small_limit_is_found() -> None:
    """A hospital rewrites its first round, and says that the rest was lost."""
    made = Consortium.after(rounds=8, limits=(8.0, 8.0))
    true = made.hospitals["alpha"].chain
    fake = Hospital("alpha", Chain("alpha", public("alpha")))
    for entry in (link.entry for link in true.links[:4]):
        changed = entry
        if isinstance(entry, Booked):
            cheap = accounting.epsilon_pld([replace(entry.plan, steps=1)], DELTA)
            stated = dict.fromkeys(
                ("epsilon_lifetime", "epsilon_run", "outsider_epsilon_lifetime"), cheap
            )
            changed = entry.model_copy(
                update={"steps": 1, "limit_lifetime": 1.0, "limit_run": 1.0, **stated}
            )
        fake.append(changed)
    fake.append(
        Recovered(
            site="alpha",
            sequence=true.length + 1,
            lost_from=5,
            lost_to=true.length,
            previous=true.head,
            epsilon_charged=1.0,
            delta=DELTA,
            witnesses=("beta", "gamma"),
            evidence_digest=digest("made up"),
            time_s=made.tick(),
        )
    )
    made.hospitals["alpha"] = fake
    found = audit(made.files())
    assert [item.check for item in failures(found)] == ["alpha: recovered"]
    # with answers of others who help, it is not refused, and not OK
    other = Consortium.after(rounds=8, limits=(8.0, 8.0))
    other.recover("alpha", 4, charge=8.0)
    recovered = other.hospitals["alpha"].chain.links[-1].entry
    fake.chain = Chain.verified(fake.lines[:4], public("alpha"), site="alpha")
    fake.append(recovered.model_copy(update={"epsilon_charged": 1.0}))
    fake.recoveries = other.hospitals["alpha"].recoveries
    found = audit(made.files())
    assert found.verdict == "INCOMPLETE"
    assert found.ledgers[0].reach.stretches[0].lengths == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"witnesses": ("beta", "delta")},
        {"witnesses": ()},
        {"previous": digest("another head")},
        {"evidence_digest": digest("another")},
    ],
)
def test_an_entry_that_its_evidence_does_not_bear_is_found(changes: dict[str, object]) -> None:
    made = Consortium.after(rounds=4)
    made.recover("alpha", 6, charge=left(made, 6))
    one = made.hospitals["alpha"]
    entry = one.chain.links[-1].entry.model_copy(update=changes)
    one.chain = Chain.verified(one.lines[:-1], public("alpha"), site="alpha")
    one.append(entry)
    found = audit({"alpha": made.file("alpha")})
    assert "alpha: recovered" in [item.check for item in failures(found)]


def test_too_few_answers_are_found() -> None:
    made = Consortium.after(rounds=4, threshold=3)
    gamma = made.hospitals.pop("gamma")
    made.recover("alpha", 6, charge=left(made, 6))
    made.hospitals["gamma"] = gamma
    found = audit({"alpha": made.file("alpha")})
    assert "1 other hospitals have answered; 2 are needed" in line(found, "alpha: recovered").detail


def test_without_its_evidence_a_restore_that_lost_nothing_is_incomplete() -> None:
    made = Consortium.after(rounds=2)
    made.recover("alpha", 4)
    found = audit({"alpha": made.file("alpha", recoveries=[])})
    assert found.verdict == "INCOMPLETE"


def test_heads_in_a_gap_countersign_nothing_before_it(lossy: Consortium) -> None:
    files = {**lossy.files(), "alpha": lossy.file("alpha", countersigned=[])}
    found = audit({name: files[name] for name in ("alpha", "beta")})
    before, after = found.ledgers[0].reach.stretches
    assert (before.first, before.last, after.first) == (1, 6, 11)
    assert set(before.lengths) == {"beta", "gamma"}, "round 2 is among the newest three of beta"
    alone = audit({"alpha": files["alpha"]})
    assert alone.ledgers[0].reach.lengths == {}


def test_a_charge_below_the_highest_limit_before_is_found() -> None:
    made = Consortium.after(rounds=1, limits=(8.0, 8.0))
    made.limits = (3.0, 3.0)
    made.round("spring", 2)
    made.round("spring", 3)
    made.recover("alpha", 6, charge=left(made, 6))
    found = audit(made.files())
    assert "entries before name limit 8" in line(found, "alpha: charge").detail
    assert found.verdict == "FAILED"


def test_rounds_of_a_release_in_a_gap_cannot_be_checked() -> None:
    made = Consortium.after(rounds=4)
    release = release_of(made, 4)
    made.recover("alpha", 6, charge=left(made, 6))
    ledger, _ = examine("alpha", made.file("alpha"), public("root"))
    assert ledger is not None
    told = [item for item in with_release([ledger], release) if item.check == "alpha: release"]
    assert [item.verdict for item in told] == ["CANNOT CHECK"] * 2
    assert "round 3 of run spring is in the release, and among" in told[0].detail


def test_a_contributor_whose_ledger_is_not_given_is_incomplete_only_with_a_release() -> None:
    made = Consortium.after(rounds=2)
    files = {"alpha": made.file("alpha")}
    found = audit(files)
    assert found.verdict == "OK"
    assert "beta, gamma" in line(found, "other hospitals").detail
    found = audit(files, release=release_of(made, 2))
    assert found.verdict == "INCOMPLETE"
    assert "whose ledger was not given" in line(found, "all ledgers").detail


@pytest.mark.parametrize(("lost", "status"), [(False, 0), (True, 6)])
def test_verify_and_report_end_as_the_ledger_was_restored(
    tmp_path: Path, lost: bool, status: int
) -> None:
    made = Consortium.after(rounds=4)
    made.recover("alpha", 6, charge=left(made, 6) if lost else None)
    files = []
    for site, data in made.files().items():
        path = tmp_path / f"{site}.ledger"
        path.write_bytes(data)
        files.append(str(path))
    root = enrolment.RootCard(root_key=public("root").hex())
    (tmp_path / "root.json").write_bytes(enrolment.seal(root, key_of("root")))
    common = [*files, "--root-key", str(tmp_path / "root.json")]
    runner = CliRunner()
    done = runner.invoke(app, ["verify", *common], catch_exceptions=False)
    assert done.exit_code == status, done.output
    done = runner.invoke(
        app, ["report", *common, "-o", str(tmp_path / "out")], catch_exceptions=False
    )
    assert done.exit_code == status
    text = (tmp_path / "out" / "alpha.html").read_text()
    assert ('class="verdict INCOMPLETE"' in text) == lost
    assert ("NOT VERIFIED" in text) == lost
    assert ("Left for life" in text) != lost
