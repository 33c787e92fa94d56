"""The coordinator releases only what its hospitals signed, and only what is private."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from release_stand_ins import PLAN, Story, key_of, public, small_model, write_run
from typer.testing import CliRunner

from server.cli import app
from server.release import make_release
from server.release_numbers import releases_of
from shared_model import accounting, enrolment, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.release_checks import verify
from shared_model.release_files import read_release


def test_the_statement_composes_every_reply_of_the_site(make):
    made = make(Story(rounds=3))
    expected = accounting.epsilon_pld([PLAN] * 3, 1e-5)
    for one in made.manifest.privacy:
        assert one.epsilon == pytest.approx(expected)
        assert (one.rounds, one.steps, one.delta) == (3, 30, 1e-5)


def test_a_closed_round_changes_no_model_but_is_paid_for(make):
    made = make(Story(rounds=3, closed=(2,)))
    manifest = made.manifest
    assert [step.outcome for step in manifest.lineage.rounds] == [
        "aggregated",
        "closed",
        "aggregated",
    ]
    assert manifest.privacy[0].rounds == 3


def test_a_site_that_missed_rounds_pays_for_its_own_only(make):
    made = make(Story(rounds=3, contributors={2: ("alpha", "beta")}))
    rounds = {one.site: one.rounds for one in made.manifest.privacy}
    assert rounds == {"alpha": 3, "beta": 3, "gamma": 2}


@pytest.mark.parametrize(
    ("noise", "private"),
    [
        ("NON-PRIVATE seeded noise (seed 7)", False),
        ("system entropy, AES-256-CTR", False),
        ("NON-PRIVATE seeded noise (seed 7)", True),
    ],
)
def test_a_run_without_private_noise_is_refused_always(make, coordinator, noise, private):
    with pytest.raises(Refused) as caught:
        make(Story(noise=noise, private=private))
    assert caught.value.reason == "not-private"
    assert releases_of(coordinator) == []


def test_a_run_without_private_noise_in_a_closed_round_only_is_refused_too(make):
    with pytest.raises(Refused) as caught:
        make(Story(closed=(1,), private=False, noise="NON-PRIVATE"))
    assert caught.value.reason == "not-private"


def test_too_few_contributors_in_one_round_are_refused(make):
    with pytest.raises(Refused, match="too few") as caught:
        make(Story(minimum=3, contributors={2: ("alpha", "beta")}))
    assert caught.value.reason == "secure-sum"


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (Story(silent={2: ("beta",)}), "no answer of beta"),
        (Story(receipts={2: 1}), "1 receipts"),
        (Story(wrong_sum=(2,)), "published sum is not the one"),
    ],
)
def test_a_sum_that_its_hospitals_have_not_verified_is_never_released(
    make, coordinator, story, words
):
    """Whatever the coordinator's own notes say: these say "verified"."""
    with pytest.raises(Refused, match="round 2 is UNVERIFIED") as caught:
        make(story)
    assert caught.value.reason == "unverified"
    assert words in caught.value.message
    assert releases_of(coordinator) == []


def test_a_wrong_sum_with_a_statement_of_its_own_is_never_released(coordinator):
    """The coordinator exchanges sum and statement: the answers are about another statement."""
    from shared_model import canonical

    folder = write_run(coordinator, Story())
    packed = folder.summed(2)
    packed = bytes([packed[0] ^ 1]) + packed[1:]
    (folder.path / "sums" / "0002.sum").write_bytes(packed)
    statement = json.loads(folder.statement(2))
    statement["sum_digest"] = canonical.digest(packed)
    (folder.path / "sums" / "0002.statement").write_bytes(canonical.encode(statement))
    with pytest.raises(Refused, match="another statement") as caught:
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")
    assert caught.value.reason == "unverified"


def test_a_run_without_masks_is_never_released(make):
    with pytest.raises(Refused, match="UnmaskedForSimulation") as caught:
        make(Story(unmasked=True))
    assert caught.value.reason == "secure-sum"


def test_a_roster_out_of_the_protocols_bounds_is_never_released(make):
    """Whoever has the root key may sign a threshold at which one site opens everything."""
    five = ("alpha", "beta", "delta", "epsilon", "gamma")
    with pytest.raises(Refused, match="threshold") as caught:
        make(Story(rounds=1, sites=five, threshold=2))
    assert caught.value.reason == "threshold"


def test_who_dropped_out_stands_in_the_manifest(make):
    steps = make(Story(rounds=2, contributors={2: ("alpha", "beta")})).manifest.lineage.rounds
    assert [(step.sum.survivors, step.sum.dropped) for step in steps] == [
        (("alpha", "beta", "gamma"), ()),
        (("alpha", "beta"), ("gamma",)),
    ]


def test_a_reply_that_the_site_did_not_sign_is_refused(make):
    with pytest.raises(Refused):
        make(Story(signer_of={"beta": "mallory"}))


def test_a_site_enrolled_with_another_key_today_is_refused(make, coordinator):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    card = enrolment.SiteCard(
        site="beta",
        declared_patients=260,
        identity_key=public("new-key").hex(),
        supernode_key=ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )
    coordinator.sites.mkdir(parents=True)
    (coordinator.sites / "beta.json").write_bytes(enrolment.seal(card, key_of("new-key")))
    with pytest.raises(Refused) as caught:
        make()
    assert caught.value.reason == "enrolled"


def test_a_record_that_says_other_than_the_site_signed_is_refused(make, coordinator):
    folder = write_run(coordinator, Story())
    record = json.loads((folder.path / "run.json").read_bytes())
    record["rounds"][0]["contributors"][0]["weight"] = 1
    (folder.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(Refused, match="not what it signed"):
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")


def test_swapped_weights_are_refused(coordinator):
    folder = write_run(coordinator, Story())
    _, other = small_model()
    other["head"] += 1
    folder.checkpoint(3).write_bytes(weights_io.to_bytes(other))
    with pytest.raises(OurMistake, match="not the model"):
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")


def test_numbers_rise_and_a_burnt_one_is_never_used_again(make, coordinator, monkeypatch):
    assert make().manifest.number == 1

    def broken(*_: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as patched:
        patched.setattr("server.release.write_release", broken)
        with pytest.raises(OSError, match="disk"):
            make(Story(run="autumn"))
    assert make(Story(run="winter")).manifest.number == 3
    assert [path.name for path in releases_of(coordinator)] == ["0001", "0003"]


def test_numbers_survive_the_loss_of_their_record(make, coordinator):
    make()
    (coordinator.releases / "last.json").unlink()
    assert make(Story(run="autumn")).manifest.number == 2


def test_a_damaged_number_record_stops_the_release(make, coordinator):
    make()
    (coordinator.releases / "last.json").write_text("{")
    with pytest.raises(OurMistake, match="number is unknown"):
        make(Story(run="autumn"))


def test_a_run_that_began_from_a_release_carries_that_release_along(make):
    first = make(Story(rounds=2))
    start = weights_io.from_bytes((first.path / "fingerprint_head.safetensors").read_bytes())
    second = make(Story(run="autumn", rounds=2, start=start, seed=9), origin=None)
    manifest = second.manifest
    assert manifest.lineage.runs == ("spring", "autumn")
    assert manifest.lineage.warm_start == first.manifest.lineage.warm_start
    assert [one.rounds for one in manifest.privacy] == [4, 4, 4]
    assert manifest.privacy[0].epsilon == pytest.approx(accounting.epsilon_pld([PLAN] * 4, 1e-5))


def test_a_first_model_of_unknown_origin_is_refused(make):
    with pytest.raises(OurMistake, match="neither"):
        make(origin=None)


def test_the_packaged_warm_start_is_recognised_and_the_operators_words_are_marked(
    make, monkeypatch
):
    assert make().manifest.lineage.warm_start.origin.startswith("as the operator states")
    start = weights_io.digest(small_model()[1])
    monkeypatch.setattr("shared_model.release_origin.packaged_warm_start", lambda preset: start)
    made = make(Story(run="autumn"), origin=None)
    assert made.manifest.lineage.warm_start.origin.startswith("packaged warm start")


def test_random_weights_of_the_fixed_seed_are_recognised(make):
    from shared_model import mae

    config = mae.PRESETS["tiny"]
    made = make(model=(config, mae.weights_of(mae.build(config, 0))), origin=None)
    assert made.manifest.lineage.warm_start.origin == "random weights drawn with seed 0, no data"


def test_an_open_round_with_replies_is_refused(coordinator):
    from server.checkpoints import StoredReply

    folder = write_run(coordinator, Story())
    folder.round(4).begin(b"request")
    folder.round(4).store_submission(StoredReply("alpha", b"h", b"b"))
    with pytest.raises(Refused) as caught:
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")
    assert caught.value.reason == "open-round"


def test_a_run_that_is_being_worked_on_is_refused(coordinator):
    folder = write_run(coordinator, Story())
    with folder.locked(), pytest.raises(Refused) as caught:
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")
    assert caught.value.reason == "busy"


def test_a_run_without_an_aggregate_has_nothing_to_release(make):
    with pytest.raises(OurMistake, match="nothing to release"):
        make(Story(rounds=2, closed=(1, 2)))


def test_replaying_an_update_in_a_later_round_is_refused(coordinator):
    folder = write_run(coordinator, Story())
    record = folder.record()
    first, second = record.rounds[0], record.rounds[1]
    bent = replace_round(record, 1, second.model_copy(update={"contributors": first.contributors}))
    folder.save(bent)
    with pytest.raises(Refused):
        make_release(coordinator, folder, key=key_of("release"), created="2026-11-21", origin="x")


def replace_round(record, index, item):
    rounds = list(record.rounds)
    rounds[index] = item
    return record.model_copy(update={"rounds": tuple(rounds)})


# ---------------------------------------------------------------- command


@pytest.fixture
def keys(coordinator):
    from cryptography.hazmat.primitives import serialization

    pem = key_of("release").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signing.write_secret(coordinator.release_key, pem)


def run(coordinator, *arguments: str):
    return CliRunner().invoke(
        app, ["release", *arguments, "--home", str(coordinator.root)], catch_exceptions=False
    )


@pytest.mark.usefixtures("keys")
def test_the_command_makes_shows_and_verifies(coordinator, tmp_path):
    write_run(coordinator, Story())
    target = tmp_path / "heart.fedprint"
    done = run(coordinator, "spring", "-o", str(target), "--origin", "a test", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["number"], told["rounds"], told["folder"]) == (1, 3, str(target))
    shown = run(coordinator, "show", str(target))
    assert "epsilon" in shown.stdout
    assert "one patient at one hospital" in shown.stdout
    assert json.loads(run(coordinator, "show", str(target), "--json").stdout)["number"] == 1
    checked = run(coordinator, "verify", str(target), "--json")
    assert json.loads(checked.stdout)["verified"] is True
    with pytest.raises(Refused):
        run(coordinator, "verify", str(target), "--signer", public("mallory").hex())


@pytest.mark.usefixtures("keys")
def test_options_may_stand_before_the_run(coordinator, tmp_path):
    write_run(coordinator, Story())
    done = run(coordinator, "-o", str(tmp_path / "r"), "spring", "--origin", "a test")
    assert done.exit_code == 0
    assert verify(read_release(tmp_path / "r"), public("release")).manifest.name == "spring"


@pytest.mark.usefixtures("keys")
def test_a_bad_name_or_an_existing_output_is_our_mistake(coordinator, tmp_path):
    write_run(coordinator, Story())
    with pytest.raises(OurMistake):
        run(coordinator, "spring", "--name", "a b\n", "--origin", "a test")
    os.mkdir(tmp_path / "there")
    with pytest.raises(OurMistake, match="never overwritten"):
        run(coordinator, "spring", "-o", str(tmp_path / "there"), "--origin", "a test")
    with pytest.raises(OurMistake, match="no run"):
        run(coordinator, "nowhere")


def test_help_has_an_example():
    for arguments in (["make"], ["show"], ["verify"]):
        told = CliRunner().invoke(app, ["release", *arguments, "--help"])
        assert "Example" in told.stdout
    assert replace(Story(), run="x").run == "x"
