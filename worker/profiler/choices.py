"""Which of several ways to exchange is taken, by size and whether compute runs beside."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log
from typing import Final, Protocol, runtime_checkable

from liger.profile import ExchangeChoice

Choice = Callable[[int, bool], str]
"""Names the way to exchange so many bytes, with compute beside or without."""

_HYSTERESIS: Final = 0.03  # what is named first is kept unless another is so much better
_MOST_SIZES: Final = 4096  # whose ways are remembered


@runtime_checkable
class Choosing(Protocol):
    """A communicator that has several ways to exchange."""

    names: tuple[str, ...]  # of the ways, alike on all ranks; the first is what is taken unless another is better

    def set_choice(self, choice: Choice) -> None:
        """Take ways as `choice` says from here on; the same on all ranks, between exchanges."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """What one way to exchange so many tokens came to, the slowest rank's."""

    alone_ns: int
    beside_ns: int  # beside compute
    delay_ns: int  # by which compute is later for each exchange


def chosen(trials: Mapping[tuple[int, str], Trial]) -> tuple[ExchangeChoice, ...]:
    """Return all trials as choices, of which one at each size is taken alone and one beside compute.

    Beside compute an exchange counts with what it takes from it.

    Args:
        trials: By tokens and name; names in the order of `Choosing.names`.
    """
    by_size: dict[tuple[int, bool], list[ExchangeChoice]] = {}
    for (num_tokens, name), trial in trials.items():
        for is_beside in (False, True):
            choice = ExchangeChoice(
                num_tokens=num_tokens,
                is_beside_compute=is_beside,
                communicator=name,
                duration_ns=trial.beside_ns if is_beside else trial.alone_ns,
                delay_ns=trial.delay_ns if is_beside else 0,
            )
            by_size.setdefault((num_tokens, is_beside), []).append(choice)
    return tuple(
        replace(choice, is_chosen=choice is best)
        for _, choices in sorted(by_size.items())
        for best in (_best(choices),)
        for choice in choices
    )


def choice_of(choices: Iterable[ExchangeChoice], activation_bytes: int, default: str) -> Choice:
    """Return a way for any size: what was taken at the nearest size that was tried.

    Args:
        choices: All; see `chosen`.
        activation_bytes: Of a token.
        default: Where none was tried.
    """
    taken: dict[bool, list[tuple[float, str]]] = {False: [], True: []}
    for choice in choices:
        if choice.is_chosen:
            taken[choice.is_beside_compute].append((log(choice.num_tokens * activation_bytes), choice.communicator))

    @lru_cache(_MOST_SIZES)
    def choose(num_bytes: int, is_beside: bool) -> str:
        size = log(max(1, num_bytes))
        return min(taken[is_beside], key=lambda each: abs(each[0] - size), default=(0.0, default))[1]

    return choose


def _best(choices: Sequence[ExchangeChoice]) -> ExchangeChoice:
    best = choices[0]
    for choice in choices[1:]:
        if _cost(choice) < (1 - _HYSTERESIS) * _cost(best):
            best = choice
    return best


def _cost(choice: ExchangeChoice) -> int:
    return choice.duration_ns + choice.delay_ns
