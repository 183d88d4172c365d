"""How much one call may bring: bounds on memory and time, held before the work that they bound."""

from typing import Final

from gateway.model import Model
from liger.errors import InputTooLongError

MAX_CALL_TOKENS: Final = 1024 * 1024  # over all inputs of a call
MAX_TOKENIZE_CHARACTERS: Final = 500_000  # of a Tokenize call, whose reply holds a spelling for each token
CHARACTERS_PER_TOKEN: Final = 128  # more than any real text has on average


def most_characters(model: Model) -> int:
    """Return how many characters of a text are read for a model; more cannot fit its context."""
    return model.max_length * CHARACTERS_PER_TOKEN


def check_text(text: str, model: Model, field: str) -> None:
    """Check that a text may fit the model's context, before it is tokenised.

    Raises:
        InputTooLongError: It cannot.
    """
    if len(text) > most_characters(model):
        raise InputTooLongError(
            f"{field} has {len(text):,} characters, which cannot fit the {model.max_length:,} tokens of model "
            f"{model.name!r}; shorten it",
            field=field,
        )


def check_call_tokens(num_tokens: int, field: str = "") -> None:
    """Check how many tokens a call brings in all.

    Raises:
        InputTooLongError: Too many.
    """
    if num_tokens > MAX_CALL_TOKENS:
        raise InputTooLongError(
            f"the call brings {num_tokens:,} tokens and more than {MAX_CALL_TOKENS:,} are not taken at once; split it",
            field=field,
        )
