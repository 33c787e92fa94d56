"""Epoch keys at the node: one at a time, never an earlier one, never in a backup."""

from __future__ import annotations

import stat

import pytest
from node_stand_ins import Consortium, signed_roster

from client.epochs import EpochKeys
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import Refusal
from shared_model.protocol_sum import EpochKey
from shared_model.secure_sum.keys import public_key

A, B = "a" * 64, "b" * 64


class Entropy:
    """Counts: every 32 bytes are others."""

    def __init__(self):
        self.asked = 0

    def __call__(self, count):
        self.asked += 1
        return bytes([self.asked]) * count


@pytest.fixture
def epochs(tmp_path):
    return EpochKeys(tmp_path / "never-back-up", tmp_path / "epochs.json")


def test_a_key_is_kept_for_its_owner_only_in_a_folder_that_backups_leave_out(epochs):
    """CACHEDIR.TAG is what backup programs look for; the README is for people."""
    public = epochs.renew(3, A, Entropy())
    assert public_key(epochs.key(3, A)) == public
    path = epochs.folder / "epoch.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(epochs.folder.stat().st_mode) == 0o700
    tag = (epochs.folder / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert "fedprint-node restored" in (epochs.folder / "README").read_text()
    assert epochs.counter.read_bytes() == b'{"last_epoch":3}'
    secret = bytes([1]) * 32
    assert secret.hex().encode() not in epochs.counter.read_bytes()
    assert secret.hex() not in repr(epochs)


def test_a_new_epoch_erases_the_key_before(epochs):
    """Who takes the disk later cannot open what was masked earlier."""
    entropy = Entropy()
    first = epochs.renew(3, A, entropy)
    second = epochs.renew(4, A, entropy)
    assert first != second
    with pytest.raises(Refused) as caught:
        epochs.key(3, A)
    assert caught.value.reason == "epoch"
    everything = b"".join(p.read_bytes() for p in epochs.folder.iterdir())
    assert (bytes([1]) * 32).hex().encode() not in everything
    assert (epochs.held, epochs.last) == (4, 4)


def test_the_same_epoch_again_keeps_its_key(epochs):
    """An answer that was lost on the way is given again."""
    entropy = Entropy()
    assert epochs.renew(3, A, entropy) == epochs.renew(3, A, entropy)
    assert entropy.asked == 1


def test_epochs_only_go_on_also_after_the_key_was_erased(epochs):
    """Not back, not the same once its key is gone, not for another roster."""
    epochs.renew(3, A, Entropy())
    with pytest.raises(Refused) as caught:
        epochs.renew(3, B, Entropy())
    assert caught.value.reason == "epoch"
    with pytest.raises(Refused):
        epochs.key(3, B)
    with pytest.raises(Refused):
        epochs.renew(2, A, Entropy())
    assert epochs.erase()
    assert not epochs.erase()
    for number in (2, 3):
        with pytest.raises(Refused) as caught:
            epochs.renew(number, A, Entropy())
        assert caught.value.reason == "epoch"
    epochs.renew(4, B, Entropy())


def test_a_folder_that_a_backup_left_out_means_a_new_epoch(epochs):
    """Restored from a backup: the counter is there, the key is not."""
    epochs.renew(3, A, Entropy())
    for path in epochs.folder.iterdir():
        path.unlink()
    epochs.folder.rmdir()
    assert (epochs.held, epochs.last) == (0, 3)
    assert not epochs.erase()
    with pytest.raises(Refused):
        epochs.key(3, A)
    epochs.renew(4, A, Entropy())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"epoch":3', b'{"epoch":3,"roster_digest":"a"}'])
def test_a_damaged_key_counts_as_none_and_a_damaged_counter_is_a_fault(epochs, data):
    """A key can be made anew; the number of the last epoch cannot be guessed."""
    epochs.renew(3, A, Entropy())
    (epochs.folder / "epoch.json").write_bytes(data)
    assert epochs.held == 0
    with pytest.raises(Refused):
        epochs.key(3, A)
    epochs.counter.write_bytes(data)
    with pytest.raises(OurMistake, match="damaged"):
        epochs.renew(4, A, Entropy())


def test_a_key_without_a_counter_still_counts(epochs):
    """Killed between the two writes."""
    epochs.renew(3, A, Entropy())
    epochs.counter.unlink()
    assert epochs.last == 3


def told(consortium, message, body):
    return consortium.told("alpha", message, body, kind=EpochKey)


def test_a_node_makes_a_key_for_the_approved_roster_and_signs_it(tmp_path):
    """The same request again gets the same bytes."""
    consortium = Consortium.of(tmp_path, keyed=False)
    message, body = consortium.epoch_request(5)
    found = told(consortium, message, body)
    assert isinstance(found, EpochKey)
    assert (found.site, found.epoch) == ("alpha", 5)
    assert found.roster_digest == consortium.roster.digest
    assert consortium.ask("alpha", message, body) == consortium.ask("alpha", message, body)


def refused(found, reason):
    return isinstance(found, Refusal) and (found.reason, found.run) == (reason, "unknown")


def test_a_key_is_refused_for_what_the_operator_has_not_approved(tmp_path):
    """Another roster, another body, no roster at all, an epoch that is over: no new key."""
    consortium = Consortium.of(tmp_path)
    message, body = consortium.epoch_request(9)
    key = consortium.nodes["alpha"].epochs.key(consortium.epoch, consortium.roster.digest)
    other = signed_roster(("alpha", "beta", "gamma", "delta"), version=2)
    asked = Consortium(consortium.nodes, other).epoch_request(9)
    assert refused(told(consortium, *asked), "roster-approval")
    assert refused(told(consortium, message, body + b"\n"), "roster")
    assert refused(told(consortium, message, b""), "roster")
    lying = message.model_copy(update={"roster_digest": other.roster.digest})
    assert refused(told(consortium, lying, body), "roster")
    for number in (1, consortium.epoch - 1):
        assert refused(told(consortium, *consortium.epoch_request(number)), "epoch")
    again = consortium.nodes["alpha"].epochs.key(consortium.epoch, consortium.roster.digest)
    assert again.private_bytes_raw() == key.private_bytes_raw()
