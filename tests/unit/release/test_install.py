"""A node installs what its pinned coordinator signed, never anything older, all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from release_stand_ins import Story, key_of, public, small_model
from typer.testing import CliRunner

from client import install, install_checks
from client.cli import app
from client.home import NodeHome
from shared_model import canonical, mae, release, release_words, signing, weights
from shared_model.errors import OurMistake, Refused
from shared_model.release_files import pack, read_release, write_release


@pytest.fixture(scope="module")
def model():
    config = mae.PRESETS["tiny"]
    return config, mae.weights_of(mae.build(config, seed=3))


def check(node: NodeHome, path: Path):
    return install.check(node, path, origins=Anything())


class Anything(tuple):
    """The operator vouches for the toy's first model, whichever it is."""

    def __contains__(self, digest: object) -> bool:
        return True


def test_a_first_model_that_nobody_knows_is_refused_unless_named(make, node, model):
    made = make(model=model)
    start = made.manifest.lineage.warm_start.digest
    for origins in ((), ("0" * 64,)):
        with pytest.raises(Refused, match="first model") as caught:
            install.check(node, made.path, origins=origins)
        assert caught.value.reason == "lineage"
    assert install.check(node, made.path, origins=(start,)).release.manifest == made.manifest
    assert "verified by nobody" in "".join(release_words.words(made.manifest))


def put(node: NodeHome, path: Path) -> Path:
    return install.install(node, check(node, path))


def test_a_release_is_installed_and_found_again(make, node, model):
    made = make(model=model)
    folder = put(node, made.path)
    assert os.readlink(node.releases / "current") == folder.name
    found = install.current(node)
    assert found is not None
    assert found.manifest == made.manifest
    assert weights.digest(found.weights) == made.manifest.model_digest
    built = install.load_model(found)
    assert weights.digest(mae.weights_of(built)) == made.manifest.model_digest


def test_an_archive_installs_like_a_folder(make, node, model, tmp_path):
    made = make(model=model, output=tmp_path / "heart.fedprint")
    put(node, tmp_path / "heart.fedprint")
    assert install.current(node).manifest.digest == made.manifest.digest


def test_a_node_that_joined_nobody_installs_nothing(make, tmp_path, model):
    made = make(model=model)
    with pytest.raises(OurMistake, match="joined no coordinator"):
        install.check(NodeHome.find(tmp_path / "lonely"), made.path)


def test_an_unknown_signer_is_refused_and_nothing_is_written(make, node, model):
    made = make(model=model, key="mallory")
    with pytest.raises(Refused) as caught:
        put(node, made.path)
    assert caught.value.reason == "signer"
    assert not node.releases.exists()


def test_rounds_asked_for_by_another_run_key_are_refused(make, node, model, monkeypatch):
    made = make(model=model)
    other = install_checks.pinned(node).model_copy(update={"run_key": public("mallory").hex()})
    monkeypatch.setattr(install_checks, "pinned", lambda home: other)
    with pytest.raises(Refused) as caught:
        put(node, made.path)
    assert caught.value.reason == "signer"


def test_rosters_of_another_root_key_are_refused(make, node, model):
    """Whoever makes a root key of his own can invent hospitals; the node has pinned the real."""
    made = make(Story(root="mallory"), model=model)
    with pytest.raises(Refused, match="root key") as caught:
        put(node, made.path)
    assert caught.value.reason == "signer"


def test_replies_in_the_name_of_this_hospital_that_it_never_signed_are_refused(make, node, model):
    from client import keys

    made = make(model=model)
    keys.make(node, "beta", 260)
    with pytest.raises(Refused, match="never signed"):
        put(node, made.path)
    node.config.write_text('site = "delta"\ndeclared_patients = 260\n')
    put(node, made.path)


@pytest.mark.parametrize(("factor", "accepted"), [(0.5, False), (0.98, False), (1.5, True)])
def test_a_price_stated_too_low_is_refused_though_signed(
    make, node, model, tmp_path, factor, accepted
):
    """Whoever says yes to a release has read what it cost; that figure must not be too small."""
    files = read_release(make(Story(rounds=2), model=model).path)
    content = json.loads(files.manifest)
    content["privacy"][1]["epsilon"] *= factor
    data = canonical.encode(content)
    signature = signing.sign(key_of("release"), release.TAG, data)
    write_release(tmp_path / "bent", replace(files, manifest=data, signature=signature))
    if accepted:
        check(node, tmp_path / "bent")
        return
    with pytest.raises(Refused) as caught:
        check(node, tmp_path / "bent")
    assert caught.value.reason == "price"
    assert "beta" in caught.value.message


def test_an_older_release_is_refused(make, node, model):
    first, second = make(model=model), make(Story(run="autumn"), model=model)
    put(node, second.path)
    with pytest.raises(Refused) as caught:
        put(node, first.path)
    assert caught.value.reason == "downgrade"
    assert install.current(node).manifest.number == 2


def test_an_older_release_is_refused_even_after_the_installed_one_was_removed(make, node, model):
    import shutil

    first, second = make(model=model), make(Story(run="autumn"), model=model)
    folder = put(node, second.path)
    shutil.rmtree(folder)
    (node.releases / "current").unlink()
    with pytest.raises(Refused) as caught:
        put(node, first.path)
    assert caught.value.reason == "downgrade"
    put(node, second.path)
    assert install.current(node).manifest.number == 2


def test_the_same_number_with_another_content_is_refused(make, node, model, coordinator):
    import shutil

    put(node, make(model=model).path)
    shutil.rmtree(coordinator.releases)
    twin = make(Story(run="twin"), model=model)
    assert twin.manifest.number == 1
    with pytest.raises(Refused) as caught:
        put(node, twin.path)
    assert caught.value.reason == "downgrade"
    assert "twice" in str(caught.value)


def test_installing_the_same_release_again_changes_nothing(make, node, model):
    made = make(model=model)
    folder = put(node, made.path)
    before = sorted(path.name for path in node.releases.iterdir())
    checked = check(node, made.path)
    assert checked.again
    assert install.install(node, checked) == folder
    assert sorted(path.name for path in node.releases.iterdir()) == before


def test_the_release_before_is_kept_and_the_one_before_that_is_not(make, node, model):
    folders = [
        put(node, make(Story(run=f"run-{index}"), model=model).path).name for index in range(3)
    ]
    assert install.previous(node) == folders[1]
    assert not (node.releases / folders[0]).exists()
    put(node, node.releases / folders[2])
    assert install.previous(node) == folders[1]


def test_a_model_of_another_shape_is_refused(make, node):
    made = make(model=small_model())
    with pytest.raises(Refused) as caught:
        put(node, made.path)
    assert caught.value.reason == "model"


def test_weights_that_do_not_fit_their_preset_are_refused(make, node, model):
    config, _ = model
    with pytest.raises(Refused) as caught:
        put(node, make(model=(config, small_model()[1])).path)
    assert caught.value.reason == "model"


def test_a_huge_model_is_refused_before_it_is_built(make, node, model, monkeypatch):
    config, _ = model
    big = replace(config, encoder_blocks=100, width=4096, heads=64)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("built")

    made = make(model=(big, small_model()[1]))
    monkeypatch.setattr(mae, "build", never)
    with pytest.raises(Refused) as caught:
        put(node, made.path)
    assert caught.value.reason == "model"


def test_damage_to_the_installed_files_is_seen_and_mended_by_installing_again(make, node, model):
    made = make(model=model)
    folder = put(node, made.path)
    target = folder / "fingerprint_head.safetensors"
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(Refused):
        install.current(node)
    put(node, made.path)
    assert install.current(node).manifest.number == 1


@pytest.mark.parametrize("where", ["../../etc", "/etc", "000001-aaaaaaaaaaaa/..", "."])
def test_a_current_link_that_leads_elsewhere_is_refused(make, node, model, where):
    put(node, make(model=model).path)
    (node.releases / "current").unlink()
    (node.releases / "current").symlink_to(where)
    with pytest.raises(Refused) as caught:
        install.current(node)
    assert caught.value.reason == "files"


def test_a_damaged_record_of_what_was_installed_stops_the_installation(make, node, model):
    made = make(model=model)
    put(node, made.path)
    (node.releases / "installed.json").write_text("[")
    with pytest.raises(OurMistake, match="downgrade"):
        put(node, made.path)


def test_what_was_verified_is_what_is_written(make, node, model):
    """The source changes between the check and the installation; the node keeps what it checked."""
    made = make(model=model)
    checked = check(node, made.path)
    (made.path / "manifest.json").write_bytes(b"{}")
    folder = install.install(node, checked)
    assert read_release(folder) == checked.files


KILLED = """
import os, sys
from pathlib import Path
from client import install
from client.home import NodeHome
left = int(sys.argv[3])
def counted(call):
    def replaced(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*arguments, **options)
    return replaced
home = NodeHome.find(Path(sys.argv[1]))
from shared_model.release_files import read_release
import json
start = json.loads(read_release(Path(sys.argv[2])).manifest)["lineage"]["warm_start"]["digest"]
checked = install.check(home, Path(sys.argv[2]), origins=[start])
for name in ("replace", "rename", "fsync", "symlink", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
install.install(home, checked)
"""


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=() if at % 5 == 0 else pytest.mark.long) for at in range(23)]
)
def test_an_installation_killed_at_any_instant_leaves_the_old_or_the_new_release(
    make, node, model, at
):
    first, second = make(model=model), make(Story(run="autumn"), model=model)
    put(node, first.path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(node.root), str(second.path), str(at)],
        check=False,
    )
    assert done.returncode in (0, 9)
    assert install.current(node).manifest.number in (1, 2)
    put(node, second.path)
    assert install.current(node).manifest.number == 2
    left = {path.name for path in node.releases.iterdir() if path.name.endswith(".new")}
    assert not left


# ---------------------------------------------------------------- command


def run(node: NodeHome, *arguments: str, answer: str | None = None):
    return CliRunner().invoke(
        app, [*arguments, "--home", str(node.root)], input=answer, catch_exceptions=False
    )


def test_the_command_shows_the_price_in_words_and_asks(make, node, model):
    made = make(model=model)
    refused = run(
        node,
        "install",
        str(made.path),
        "--confirm-origin",
        made.manifest.lineage.warm_start.digest,
        answer="n\n",
    )
    assert refused.exit_code != 0
    assert "epsilon" in refused.stdout
    assert "one patient at one hospital" in refused.stdout
    assert install.current(node) is None
    assert (
        run(
            node,
            "install",
            str(made.path),
            "--confirm-origin",
            made.manifest.lineage.warm_start.digest,
            answer="y\n",
        ).exit_code
        == 0
    )
    assert "release 1" in run(node, "release").stdout.lower()


def test_the_command_speaks_json(make, node, model):
    made = make(model=model)
    told = json.loads(
        run(
            node,
            "install",
            str(made.path),
            "--confirm-origin",
            made.manifest.lineage.warm_start.digest,
            "--yes",
            "--json",
        ).stdout
    )
    assert told["number"] == 1
    assert told["already"] is False
    shown = json.loads(run(node, "release", "--json").stdout)
    assert shown["digest"] == made.manifest.digest
    assert shown["before"] is None


def test_no_release_says_what_to_do(node):
    with pytest.raises(OurMistake) as caught:
        run(node, "release")
    assert "fedprint-node install" in caught.value.do


def test_an_archive_that_is_not_canonical_is_refused(make, node, model, tmp_path):
    made = make(model=model)
    (tmp_path / "x.fedprint").write_bytes(pack(read_release(made.path)) + b"\0" * 512)
    with pytest.raises(Refused):
        put(node, tmp_path / "x.fedprint")
    assert key_of("release") is not None
