"""Stop strings: found wherever the text was cut, and nothing of them given out too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stop import StopScanner, StopStrings

ALPHABET = st.sampled_from("ab你")
TEXTS = st.text(alphabet=ALPHABET, max_size=30)
STOPS = st.lists(st.text(alphabet=ALPHABET, min_size=1, max_size=6), min_size=1, max_size=4, unique=True)


def naive(text: str, stops: list[str], *, include_stop: bool) -> tuple[str, str]:
    """Return the text before the first complete stop string, and that string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end if include_stop else end - len(longest)], longest
    return text, ""


def feed(pieces: list[str], stops: list[str], *, include_stop: bool) -> tuple[list[str], str]:
    scanner = StopScanner(StopStrings(stops), include_stop=include_stop)
    given_out = []
    for piece in pieces:
        scan = scanner.scan(piece)
        given_out.append(scan.text)
        if scan.stop:
            return given_out, scan.stop
    return [*given_out, scanner.flush()], ""


@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 30)), include_stop=st.booleans())
def test_the_result_is_that_of_a_naive_search_however_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int], include_stop: bool
) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    given_out, stop = feed(pieces, stops, include_stop=include_stop)
    assert ("".join(given_out), stop) == naive(text, stops, include_stop=include_stop)


@given(text=TEXTS, stops=STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    scanner = StopScanner(StopStrings(stops), include_stop=False)
    so_far = given_out = ""
    for character in text:
        so_far += character
        scan = scanner.scan(character)
        given_out += scan.text
        if scan.stop:
            return
        longest = max(
            (length for stop in stops for length in range(len(stop)) if so_far.endswith(stop[:length])), default=0
        )
        assert given_out == so_far[: len(so_far) - longest]


def test_text_passes_untouched_without_stop_strings() -> None:
    assert feed(["any ", "text"], [], include_stop=False) == (["any ", "text", ""], "")


def test_a_stop_string_that_may_not_count_yet_is_given_out() -> None:
    scanner = StopScanner(StopStrings(["END"]), include_stop=False)
    assert scanner.scan("the END", may_stop=False).text == "the END"
    assert scanner.scan(" the EN").text == " the "
    scan = scanner.scan("D.")
    assert (scan.text, scan.stop) == ("", "END")


def test_a_stop_string_that_began_before_it_may_count_counts_when_complete() -> None:
    scanner = StopScanner(StopStrings(["END"]), include_stop=False)
    assert scanner.scan("xEN", may_stop=False).text == "x"
    assert scanner.scan("D").stop == "END"


@pytest.mark.parametrize(("include_stop", "expected"), [(False, "a "), (True, "a STOP")])
def test_the_stop_string_is_given_out_only_where_asked(include_stop: bool, expected: str) -> None:
    given_out, stop = feed(["a ST", "OP b"], ["STOP"], include_stop=include_stop)
    assert ("".join(given_out), stop) == (expected, "STOP")


def test_of_strings_that_end_together_the_longest_counts() -> None:
    assert feed(["xabc"], ["c", "abc", "bc"], include_stop=False) == (["x"], "abc")
