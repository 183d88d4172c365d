"""Stop strings in a stream of text: found across any borders, no part of one given out too early.

A match is where, reading character by character, a stop string is first complete; of several that end there, the
longest counts. So the answer does not depend on how the text was cut into pieces. All strings are followed at once by
an automaton (Aho and Corasick 1975), so that a character costs the same for one string and for many, whatever they are.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_START: Final = 0


class StopStrings:
    """Stop strings, prepared once for all samples of a request. A state is the longest beginning of one seen last.

    States are numbered as they are added, so that along a string each mostly follows the one before: that, and arrays,
    keep 64 strings of 1,024 characters near a megabyte.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.is_empty = not strings
        self.depths = array("I", [0])  # by state: its length in characters
        self.found = [""]  # by state: the longest stop string that ends it, empty if none
        self._shorter = array("I", [_START])  # by state: the longest other state that it ends with
        self._parents = array("I", [_START])  # by state: the state that is one character shorter
        self._characters = array("I", [0])  # by state: its last character
        self._goes_on = bytearray(1)  # by state: whether the next number is one of its children
        self._branches: dict[tuple[int, int], int] = {}  # the other children, by parent and character
        for string in strings:
            self._add(string)
        self._branching = {parent for parent, _ in self._branches}
        self._link()

    def advance(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        return self._advance(state, ord(character))

    def unfinished(self, state: int) -> int:
        """Return the longest end of a state that one more character may still lengthen."""
        while state != _START and not self._goes_on[state] and state not in self._branching:
            state = self._shorter[state]
        return state

    def _child(self, state: int, character: int) -> int | None:
        if self._goes_on[state] and self._characters[state + 1] == character:
            return state + 1
        return self._branches.get((state, character))

    def _advance(self, state: int, character: int) -> int:
        while (child := self._child(state, character)) is None and state != _START:
            state = self._shorter[state]
        return _START if child is None else child

    def _add(self, string: str) -> None:
        state = _START
        for character in map(ord, string):
            child = self._child(state, character)
            state = self._grow(state, character) if child is None else child
        self.found[state] = string

    def _grow(self, parent: int, character: int) -> int:
        """Return a new state, one character longer than `parent`."""
        state = len(self.found)
        if state == parent + 1:
            self._goes_on[parent] = True
        else:
            self._branches[parent, character] = state
        self.depths.append(self.depths[parent] + 1)
        self.found.append("")
        self._shorter.append(_START)
        self._parents.append(parent)
        self._characters.append(character)
        self._goes_on.append(False)
        return state

    def _link(self) -> None:
        """Fill `_shorter` and `found`, shorter states first."""
        for state in sorted(range(1, len(self.found)), key=self.depths.__getitem__):
            if (parent := self._parents[state]) != _START:
                self._shorter[state] = self._advance(self._shorter[parent], self._characters[state])
            self.found[state] = self.found[state] or self.found[self._shorter[state]]


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
        self._state = _START
        self._held = ""

    def scan(self, text: str, *, may_stop: bool = True) -> Scan:
        """Take more text; hold back what may be the beginning of a stop string.

        Args:
            text: What follows the text so far.
            may_stop: Whether a string that is completed in this text counts.
        """
        if self._stops.is_empty:
            return Scan(text)
        unsent = self._held + text
        for place, character in enumerate(text, start=len(self._held) + 1):
            self._state = self._stops.advance(self._state, character)
            found = self._stops.found[self._state]
            if found and may_stop:
                self._held = ""
                return Scan(unsent[: place if self._include_stop else place - len(found)], found)
        self._state = self._stops.unfinished(self._state)
        keep = len(unsent) - self._stops.depths[self._state]
        self._held = unsent[keep:]
        return Scan(unsent[:keep])

    def flush(self) -> str:
        """Return what was held back, at the sample's end."""
        held, self._held = self._held, ""
        return held
