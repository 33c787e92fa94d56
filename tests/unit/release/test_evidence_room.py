"""A run has no more rounds than a release has room for, and that is known when it begins."""

from __future__ import annotations

import pytest
import release_stand_ins
from release_stand_ins import Story, public, write_run

from server.release_rounds import collect
from server.run_config import RunConfig
from server.run_start import check_room, evidence_bytes
from shared_model.errors import OurMistake
from shared_model.release import EVIDENCE_LIMIT_BYTES


@pytest.mark.parametrize("count", [3, 12])
def test_what_a_round_adds_to_the_evidence_is_estimated_from_above(coordinator, monkeypatch, count):
    """Against the evidence of a real round, in which every site signs everything."""
    names = tuple(f"hospital-{number:02d}" for number in range(count))
    monkeypatch.setattr(release_stand_ins, "DECLARED", dict.fromkeys(names, 100))
    story = Story(rounds=1, sites=names, threshold=2 * count // 3 + 1)
    folder = write_run(coordinator, story)
    record = folder.record()
    _, evidence = collect(folder, record, {site: public(site).hex() for site in names})
    real = len(evidence.to_bytes())
    assert real <= evidence_bytes(record.roster) <= 1.3 * real


def test_a_run_with_more_rounds_than_fit_into_a_release_is_refused_at_its_beginning(coordinator):
    """Otherwise the operator would learn of it after months, and every budget was spent."""
    record = write_run(coordinator, Story(rounds=1)).record()
    room = EVIDENCE_LIMIT_BYTES // evidence_bytes(record.roster)
    values = {"run": "long", "preset": "tiny", "privacy": record.config.privacy.as_dict()}
    check_room(RunConfig.from_dict({**values, "rounds": room}), record.roster)
    longer = {**values, "rounds": room + 1}
    with pytest.raises(OurMistake, match=f"about {room}") as caught:
        check_room(RunConfig.from_dict(longer), record.roster)
    assert str(room) in caught.value.do
    unmasked = {**longer, "aggregation": "UnmaskedForSimulation"}
    check_room(RunConfig.from_dict(unmasked), record.roster)
