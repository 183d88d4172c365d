"""Stop strings: found wherever the text was cut, and nothing of them given out too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stop import Scan, StopScanner, StopStrings

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


def test_a_string_that_branches_off_where_another_ended_is_not_taken_for_its_continuation() -> None:
    scanner = StopScanner(StopStrings(["ab", "xy", "abc"]), include_stop=False)
    assert scanner.scan("xy", may_stop=False).text == "xy"
    assert scanner.scan("c") == Scan("c")


class CountedStops(StopStrings):
    """Counts how often it looks for the next character."""

    num_steps = 0

    def _child(self, state: int, character: int) -> int | None:
        self.num_steps += 1
        return super()._child(state, character)


HOSTILE = {
    "nearly equal": ["a" * length + "b" * (1024 - length) for length in range(1, 65)],
    "periodic": [("a" * length + "b") * (1024 // (length + 1)) + "c" for length in range(1, 65)],
    "one within the other": ["a" * length + "c" for length in range(1, 1024, 16)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_strings_cost_a_bounded_number_of_steps_a_character(case: str) -> None:
    stops = CountedStops(HOSTILE[case])
    scanner = StopScanner(stops, include_stop=False)
    text = ("a" * 1100 + "b") * 10 + "ab" * 5_000
    stops.num_steps = 0
    given_out = "".join(scanner.scan(text[place : place + 7]).text for place in range(0, len(text), 7))
    assert stops.num_steps <= 2 * len(text)
    assert given_out + scanner.flush() == text


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_strings_are_found_where_a_plain_search_finds_them(case: str) -> None:
    stops = HOSTILE[case]
    text = "a" * 3000 + "b" * 500 + stops[37] + "a" * 50
    given_out, stop = feed([text[place : place + 11] for place in range(0, len(text), 11)], stops, include_stop=False)
    ends = {text.find(string) + len(string): string for string in sorted(stops, key=len) if string in text}
    first = min(ends)
    assert stop == ends[first]
    assert "".join(given_out) == text[: first - len(stop)]
