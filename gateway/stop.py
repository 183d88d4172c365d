"""Stop strings in a stream of text: found across any borders, no part of one given out too early.

A match is where, reading character by character, a stop string is first complete; of several that end there, the
longest counts. So the answer does not depend on how the text was cut into pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class StopStrings:
    """Stop strings, prepared once for all samples of a request."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        self.borders = tuple(_borders(string) for string in strings)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a piece of text brought."""

    text: str  # may be given out
    stop: str = ""  # the stop string that was completed, empty if none


class StopScanner:
    """Follows one sample's text.

    Args:
        stops: The strings to look for.
        include_stop: Whether the stop string itself is given out.
    """

    def __init__(self, stops: StopStrings, *, include_stop: bool) -> None:
        self._stops = stops
        self._include_stop = include_stop
        self._matched = [0] * len(stops.strings)  # characters of each string that the text so far ends with
        self._held = ""

    def scan(self, text: str, *, may_stop: bool = True) -> Scan:
        """Take more text; hold back what may be the beginning of a stop string.

        Args:
            text: What follows the text so far.
            may_stop: Whether a string that is completed in this text counts.
        """
        if not self._stops.strings:
            return Scan(text)
        unsent = self._held + text
        for place, character in enumerate(text, start=len(self._held) + 1):
            found = self._advance(character)
            if found and may_stop:
                self._held = ""
                return Scan(unsent[: place if self._include_stop else place - len(found)], found)
        keep = len(unsent) - max(self._matched)
        self._held = unsent[keep:]
        return Scan(unsent[:keep])

    def flush(self) -> str:
        """Return what was held back, at the sample's end."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str:
        """Follow every string by one character; return the longest that is now complete, or nothing."""
        found = ""
        for index, string in enumerate(self._stops.strings):
            borders, matched = self._stops.borders[index], self._matched[index]
            while matched and string[matched] != character:
                matched = borders[matched]
            matched += string[matched] == character
            if matched == len(string):
                found = max(found, string, key=len)
                matched = borders[matched]
            self._matched[index] = matched
        return found


def _borders(string: str) -> tuple[int, ...]:
    """Return for each n the longest proper prefix of string[:n] that also ends it (Knuth, Morris and Pratt 1977)."""
    borders = [0, 0]
    for place in range(1, len(string)):
        border = borders[place]
        while border and string[border] != string[place]:
            border = borders[border]
        borders.append(border + (string[border] == string[place]))
    return tuple(borders)
