"""Stop strings in content that comes in pieces, against a search of the complete text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.output.parser import Content
from gateway.output.stop_strings import StopStrings

TEXTS = st.text(st.sampled_from("abc é漢😀\n"), max_size=30)
STOPS = st.lists(st.text(st.sampled_from("abc é漢"), min_size=1, max_size=4), max_size=3)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def pieces_of(text: str, sizes: list[int]) -> list[Content]:
    """`text` in pieces of these sizes, again and again."""
    pieces: list[Content] = []
    place = 0
    while place < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(Content(place, text[place : place + size]))
        place += size
    return pieces


def read(pieces: list[Content], stops: list[str], not_before: float = 0) -> tuple[list[str], int | None]:
    """The text of each piece and of the flush, and where the stop string ended."""
    found, texts, sent = StopStrings(stops), [], 0
    found.not_before = not_before
    for piece in pieces:
        ready = found.add(piece)
        assert not ready.text or ready.start == sent
        texts.append(ready.text)
        sent += len(ready.text)
        if found.end is not None:
            return texts, found.end
    return [*texts, found.flush().text], None


@settings(max_examples=300, deadline=None)
@given(TEXTS, STOPS, SIZES, st.integers(0, 12))
def test_where_the_text_is_cut_does_not_depend_on_the_pieces(
    text: str, stops: list[str], sizes: list[int], not_before: int
) -> None:
    texts, end = read(pieces_of(text, sizes), stops, not_before)
    ends = [
        (start + len(stop), start)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start) and start + len(stop) > not_before
    ]
    if ends:
        assert (end, "".join(texts)) == (min(ends)[0], text[: min(ends)[1]])
    else:
        assert (end, "".join(texts)) == (None, text)


def test_nothing_of_a_possible_stop_is_sent_early() -> None:
    texts, end = read([Content(0, "the E"), Content(5, "N"), Content(6, "E"), Content(7, "ND and more")], ["END"])
    assert (texts, end) == (["the ", "", "EN", ""], 9)


@pytest.mark.parametrize(("stops", "text"), [(["bc", "abc"], ""), (["abcd", "b"], "a"), (["c", "bcd"], "ab")])
def test_of_several_stops_the_one_that_ends_first_counts(stops: list[str], text: str) -> None:
    assert read([Content(0, "abcd")], stops)[0] == [text]


def test_a_stop_string_does_not_span_a_gap() -> None:
    found = StopStrings(["END"])
    assert found.add(Content(0, "an EN")).text == "an "
    assert found.flush().text == "EN"
    assert (found.add(Content(40, "Done")).text, found.end) == ("Done", None)
    assert (found.add(Content(44, "END")).text, found.end) == ("", 47)
