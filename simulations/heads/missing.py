"""Why folders do not give a task of heads, in sentences: what their recordings lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from client.records import Recording
from simulations.probes import truths
from simulations.probes.site_tasks import QUESTIONS, not_taken, unreadable_words
from simulations.probes.task import Copies, recordings
from simulations.site_mapping import HOW_READ

LABELS = "Labels, and the words of them that are understood: docs/probes.md."


def needs(questions: Sequence[str]) -> str:
    """What a recording must have for any of these questions of the probes, in words."""
    return ", or ".join(QUESTIONS[name].needs for name in questions)


def missing(
    folders: Sequence[Path],
    questions: Sequence[str],
    truth: Callable[[Recording], float] | None,
) -> str:
    """How many recordings have what a task needs, how many patients say what is not understood,
    which columns a guess did not take for labels, and how many files cannot be read. It reads all.

    Args:
        questions: names of the probes' questions, one of which a recording must answer.
        truth: what a recording's own labels say; None: nothing is read of them.
    """
    asked = [QUESTIONS[name] for name in questions]
    heard = truths.Heard(truth or (lambda _: truths.NOT_KNOWN))
    there = having = 0
    copies = Copies()
    for recording in recordings(folders, copies=copies):
        there += 1
        having += any(one.asks(recording) for one in asked)
        heard(recording)
    faults = unreadable_words(copies.unreadable)
    if not there:
        return f"No recording there could be read. {sentences(*faults)}{HOW_READ}. "
    said = [heard.words]
    if "identity" in questions:  # no recording tells by itself
        said.append(f"recordings need {needs(questions)}")
    elif asked:
        count = f"{having} of the {there}" if having else f"none of the {there}"
        understood = ", in words or numbers that are understood" if heard.unknown else ""
        said.append(f"{count} recordings there have {needs(questions)}{understood}")
    labels = [label for one in asked for label in one.labels]
    left_out = not_taken(folders, labels)
    said += [*left_out, *faults, *([HOW_READ] if left_out or faults else [])]
    return sentences(*said)


def not_used(unknown: str, unreadable: Mapping[str, int]) -> str:
    """In sentences, patients whose words are not understood and files that cannot be read."""
    return sentences(unknown, *unreadable_words(unreadable))


def sentences(*words: str) -> str:
    """Each as `sentence` has it."""
    return "".join(sentence(one) for one in words)


def sentence(words: str) -> str:
    """With a capital, unless a command is first, its full stop and a blank behind; "" stays so."""
    first = words[:1] if words.startswith("fedprint-") else words[:1].upper()
    return f"{first}{words[1:]}. " if words else ""
