"""Digests in words."""

from __future__ import annotations

import pytest

from shared_model import spoken_words
from shared_model.enrolment import RootCard
from shared_model.spoken_words import SPOKEN_BITS, words_of


def test_a_known_digest_gives_the_published_words() -> None:
    """The example of PGPfone's manual and of Wikipedia's article on the PGP word list."""
    digest = "e58294f2e9a227486e8b061b31cc528fd7fa3f19" + 24 * "0"
    assert words_of(digest) == (
        "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator goldfish Medusa "
        "afflict bravado"
    )


def test_every_byte_has_a_word_of_its_own_in_each_list() -> None:
    lists = (spoken_words._TWO_SYLLABLES, spoken_words._THREE_SYLLABLES)
    assert [len(words) for words in lists] == [256, 256]
    assert len({word.lower() for words in lists for word in words}) == 512


@pytest.mark.parametrize("bit", range(SPOKEN_BITS))
def test_each_of_the_spoken_bits_changes_a_word(bit: int) -> None:
    changed = bytearray(32)
    changed[bit // 8] ^= 1 << (bit % 8)
    before, after = words_of("00" * 32).split(), words_of(changed.hex()).split()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert len(before) == 12


def test_swapped_words_are_no_words_of_their_place() -> None:
    """A listener who hears two words in the wrong order finds them in neither list."""
    first, second = words_of("0102" + "00" * 30).split()[:2]
    assert first not in spoken_words._THREE_SYLLABLES
    assert second not in spoken_words._TWO_SYLLABLES


def test_the_words_of_a_key_are_of_the_digest_that_is_shown_beside_them() -> None:
    card = RootCard(root_key="0b" * 32)
    assert card.words_key == words_of(card.spoken_key.replace(" ", ""))
