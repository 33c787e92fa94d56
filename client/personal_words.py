"""Words of a hospital's labels: what is refused of them, and which of them an error may name.

A class is named where `FEWEST_NAMED` patients share it; of rarer ones there is a count, for a label
of one patient may say who he is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from client.labels import MISSING
from shared_model import linear_heads
from shared_model.errors import DataFault

FEWEST_NAMED = linear_heads.FOLDS
"""Patients of a class that is named: the fewest that a class of a head has."""
MOST_NAMED = 5
_UNSAID = (MISSING - {"", "none"}) | frozenset(
    {"nat", "nil", "unknown", "<na>", "#na", ".", "..", "n.a.", "n / a", "(null)", "missing"}
    | {"\u2013", "\u2014", "inf", "-inf", "infinity"}
)
"""What programs write for no value: as of recordings, and of spreadsheets and statistics."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d[\d.]*,[\d.,]*\d")


def named(counts: Mapping[str, int]) -> str:
    """ "mild (22 patients), severe (20 patients), 3 of fewer than 5 patients": never more."""
    often = [one for one in counts if counts[one] >= FEWEST_NAMED]
    told = [f"{one} ({counts[one]} patients)" for one in often[:MOST_NAMED]]
    more, rare = len(often) - len(told), len(counts) - len(often)
    if more:
        told.append(f"{more} more")
    if rare:
        told.append(f"{rare} of fewer than {FEWEST_NAMED} patients")
    return ", ".join(told)


def refuse_decimal_commas(values: Iterable[str | float]) -> None:
    """Raises DataFault (cause "labels"): numbers with a comma would be words, each a class."""
    commas = sum(isinstance(one, str) and bool(_DECIMAL_COMMA.fullmatch(one)) for one in values)
    if commas:
        raise DataFault(
            f"The labels are numbers with a decimal comma, of {commas} patients.",
            cause="labels",
            do="Write 3.5 for 3,5. Or say --kind class if they are no numbers.",
        )


def refuse_unsaid(values: Iterable[str | float]) -> None:
    """Raises DataFault (cause "labels"): a class would be a word that programs write where there
    is no value. Nobody can tell which it is but the hospital; "none" is a class."""
    found = sorted({one for one in values if isinstance(one, str) and one.casefold() in _UNSAID})
    if found:
        options = " ".join(f"--missing '{one}'" for one in found)
        raise DataFault(
            f"A class is called {' or '.join(found)}, which programs also write for no value.",
            cause="labels",
            do=f"If nobody knows the label, say {options}. If it is a class, give it another word.",
        )


def refuse_spellings(values: Iterable[str | float]) -> None:
    """Raises DataFault (cause "labels"): yes and Yes would be two classes, told apart by chance."""
    counts = Counter(one for one in values if isinstance(one, str))
    alike: dict[str, list[str]] = {}
    for word in sorted(counts):
        alike.setdefault(unicodedata.normalize("NFC", word).casefold(), []).append(word)
    several = [words for words in alike.values() if len(words) > 1]
    if several:
        spelled = {word: counts[word] for words in several for word in words}
        which = "A class is" if len(several) == 1 else f"{len(several)} classes are"
        raise DataFault(
            f"{which} spelled in {len(spelled)} ways, which differ only in capital letters or "
            f"accents: {named(spelled)}.",
            cause="labels",
            do="Spell it alike in all rows.",
        )
