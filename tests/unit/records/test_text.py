"""Text of headers and tables, however it is written."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from client.formats.base import decode, lines_of

WORDS = st.sampled_from([b"", b"a", b"KO", "KÖ".encode(), "KÖ".encode("latin-1"), b"\xff", b"\x85"])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def alone(line: bytes) -> str:
    """One line, as it is read where nothing else is there."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


@given(st.lists(st.tuples(st.lists(WORDS, max_size=4), ENDS), max_size=8))
def test_each_line_is_read_as_it_would_be_alone(lines: list[tuple[list[bytes], bytes]]) -> None:
    """A table's rows are of different patients."""
    whole = [b"".join(words) + end for words, end in lines]
    assert decode(b"".join(whole)) == "".join(map(alone, whole))
    assert decode(b"\xef\xbb\xbf" + b"".join(whole)) == "".join(map(alone, whole))


@given(st.lists(st.tuples(st.sampled_from(["a", "b\x85\x0b", "\u2028\x1d"]), ENDS), max_size=8))
def test_lines_end_where_csv_ends_them_and_nowhere_else(lines: list[tuple[str, bytes]]) -> None:
    """Python's splitlines cut a row at Windows' ellipsis, and no row of the table was read."""
    whole = "".join(text + end.decode() for text, end in lines)
    assert lines_of(whole) == [*(text for text, _ in lines), ""]


def test_one_wrong_byte_does_not_take_memory_for_every_line() -> None:
    """It took 53 times the file: a node would have been killed by a table of 64 MiB."""
    for data in (b"\xff\n" + b"a\n" * 500_000, b"\xff\n" * 500_000):
        tracemalloc.start()
        try:
            decode(data)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 16 * len(data)
