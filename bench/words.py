"""Plain words, drawn from a seed: what clients send where a real tokenizer takes it apart."""

import random
from typing import Final

_WORDS: Final = (
    "the river house was near an old road and people from many small towns came every summer to see how water moved "
    "under stone bridges while children played games beside large trees that gave them shade through long warm days "
    "some wrote letters about work or money others told stories of great ships which sailed across dark seas with "
    "gold silver glass paper books maps tools grain salt fish bread fruit wine horses and music nobody could explain "
    "why time passed so fast when friends talked after dinner about science history nature law art trade war peace "
    "doctors teachers farmers drivers writers builders soldiers kings queens each had a different answer to give"
)


def all_words() -> str:
    """Return a text that holds every word."""
    return _WORDS


def draw_words(count: int, seed: str) -> str:
    """Draw a text of so many words."""
    rng = random.Random(f"words {seed}")  # noqa: S311 - a draw that can be repeated, no secret
    return " ".join(rng.choices(_WORDS.split(), k=count))
