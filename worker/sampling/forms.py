"""What the draws of a batch send: known from the schedule alone, so that all ranks agree on every size."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from worker.sampling import masses
from worker.sampling.draw import Draw
from worker.sampling.filters import is_filtered, needs_masses
from worker.sampling.likelihood import likelihood_width

_NUM_CANDIDATES: Final = 512  # of a shard, where top-k does not say
_NUM_EQUALS: Final = 32  # beyond top-k: the last must differ for a row to be decided, and in bfloat16 many are equal


class Kind(Enum):
    """How a token is found."""

    LIKELIEST = auto()  # each shard sends its best
    NOISY = auto()  # likewise, with noise on all of its logits
    FILTERED = auto()  # each shard sends its likeliest few, then noise is put on what is kept of all of them


@dataclass(frozen=True, slots=True)
class Form:
    """What a row's draw sends. Rows of one form are handled together.

    The columns are the candidates' values, their ids, their logits under the model itself (if likelihoods are asked
    for), the row's masses (if filters need them), and the likelihoods' parts.
    """

    kind: Kind
    num_candidates: int
    has_masses: bool
    num_rivals: int | None  # None if no likelihoods are asked for

    @property
    def widths(self) -> list[int]:
        """Columns of each part."""
        asks = self.num_rivals is not None
        return [
            self.num_candidates,
            self.num_candidates,
            self.num_candidates if asks else 0,
            masses.WIDTH if self.has_masses else 0,
            likelihood_width(self.num_rivals) if self.num_rivals is not None else 0,
        ]


def group_rows(draws: Sequence[Draw], width: int) -> dict[Form, list[int]]:
    """Return the rows of each form, forms in the order in which they come first.

    Args:
        draws: One a row.
        width: Vocabulary rows of the largest shard.
    """
    groups: dict[Form, list[int]] = {}
    for row, draw in enumerate(draws):
        groups.setdefault(_form_of(draw, width), []).append(row)
    return groups


def _form_of(draw: Draw, width: int) -> Form:
    sampling = draw.sampling
    num_rivals = None if sampling.logprobs is None else min(sampling.logprobs, width)
    if sampling.temperature == 0:
        return Form(Kind.LIKELIEST, 1, False, num_rivals)
    if not is_filtered(sampling):
        return Form(Kind.NOISY, 1, False, num_rivals)
    count = sampling.top_k + _NUM_EQUALS if sampling.top_k else _NUM_CANDIDATES
    return Form(Kind.FILTERED, min(count, width), needs_masses(sampling), num_rivals)
