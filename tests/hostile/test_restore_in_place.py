"""A hospital whose files, but not its never-back-up folder, were put back from a backup."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from consortium import Consortium
from typer.testing import CliRunner

from client.cli import app
from client.home import NodeHome
from client.node import check_books
from shared_model.errors import DataFault, Refused
from shared_model.ledger import LedgerFault
from shared_model.protocol import TrainReply
from shared_model.protocol_sum import Agreement, EpochKey

World = Callable[..., Consortium]


def _restore_in_place(home: NodeHome, copy: Path) -> None:
    """What rsync, tar and restic do: never-back-up stays as it is, everything else goes back."""
    for path in home.root.iterdir():
        if path != home.never_back_up:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, home.root, dirs_exist_ok=True)


def test_a_node_restored_in_place_does_not_sign_a_second_set(consortium: World) -> None:
    """The count beside the epoch's key is ahead of the folder's: the node refuses everything."""
    w = consortium(5, threshold=3, colluding_sites=0)
    request = w.request(1)
    w.submit(request)
    copy = w.back_up("s00", with_epoch_key=False)
    assert isinstance(w.agree(request, w.names)["s00"].answer, Agreement)
    _restore_in_place(w.hospitals["s00"].home, copy)
    again = w.agree(request, ("s00", "s01", "s02"))["s00"]
    assert again.refused == "epoch"


def test_a_node_restored_in_place_does_not_train_a_round_twice(consortium: World) -> None:
    """A second vector under the keystreams of the first would give away their difference."""
    w = consortium(5, threshold=3, colluding_sites=0)
    copy = w.back_up("s00", with_epoch_key=False)
    request = w.request(1)
    w.submit(request, ["s00"])
    _restore_in_place(w.hospitals["s00"].home, copy)
    assert w.submit(request, ["s00"])["s00"].refused == "epoch"
    assert w.hospitals["s00"].trained == 1


def test_a_restored_node_does_not_start_until_its_operator_says_restored(consortium: World) -> None:
    """The command erases the key, so nothing of earlier rounds is answered; and nothing new
    is before the ledger, rolled back with the folder, is recovered."""
    w = consortium(4)
    home = w.hospitals["s00"].home
    copy = w.back_up("s00", with_epoch_key=False)
    request = w.request(1)
    w.submit(request, ["s00"])
    _restore_in_place(home, copy)
    with pytest.raises(Refused, match="restored"):
        check_books(home)
    result = CliRunner().invoke(app, ["restored", "--home", str(home.root)])
    assert result.exit_code == 0, result.output
    with pytest.raises(LedgerFault, match="nobody here knows"):
        check_books(home)
    assert w.submit(request, ["s00"])["s00"].refused == "epoch"
    assert w.ask_epoch_key("s00", 2, w.signed).refused == "ledger"


def test_a_crash_between_the_two_counts_is_no_restore(consortium: World) -> None:
    """The folder's own count is raised first."""
    w = consortium(4)
    request = w.request(1)
    w.submit(request, ["s00"])
    writes = w.hospitals["s00"].home.outbox / "writes"
    writes.write_text(str(int(writes.read_text()) + 1))
    assert isinstance(w.submit(request, ["s00"])["s00"].answer, TrainReply)


def test_a_damaged_count_outside_is_a_restore(consortium: World) -> None:
    """What cannot be read is not taken for nothing."""
    w = consortium(4)
    request = w.request(1)
    w.submit(request, ["s00"])
    (w.hospitals["s00"].home.never_back_up / "writes").write_text("many")
    assert w.submit(request, ["s00"])["s00"].refused == "epoch"


def test_an_epoch_gets_one_key_whenever_the_node_is_killed(
    consortium: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is written first: killed before the key, the epoch has no key here for good."""
    import client.epochs as epochs

    w = consortium(4)
    real = epochs.write_atomic

    def dies(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        if path.name == "epoch.json":
            raise KeyboardInterrupt
        real(path, data, mode=mode)

    monkeypatch.setattr(epochs, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        w.ask_epoch_key("s00", 2, w.signed)
    monkeypatch.setattr(epochs, "write_atomic", real)
    assert w.ask_epoch_key("s00", 2, w.signed).refused == "epoch"
    assert isinstance(w.ask_epoch_key("s00", 3, w.signed).answer, EpochKey)


def test_an_epoch_of_the_far_future_is_refused(consortium: World) -> None:
    """No later one could follow it: one message would end the node's part for good."""
    w = consortium(4)
    assert w.ask_epoch_key("s00", 2**53, w.signed).refused == "epoch"
    assert isinstance(w.ask_epoch_key("s00", 2, w.signed).answer, EpochKey)


def test_the_word_of_a_refusal_does_not_tell_of_recordings(consortium: World) -> None:
    """A damaged recording that was sampled leaves as the word of every other fault."""
    w = consortium(4)

    def breaks(update: object) -> None:
        raise DataFault("A recording is damaged.", cause="damaged")

    w.hospitals["s00"].change = breaks
    assert w.submit(w.request(1), ["s00"])["s00"].refused == "internal"
