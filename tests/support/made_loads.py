"""Random batches and profiles for planners."""

from dataclasses import asdict, dataclass

from hypothesis import strategies as st

from controller.core.batch import Batch
from liger.domain import BatchKind
from liger.profile import ProfileTable
from tests.support.driven_plans import batch_of
from tests.support.simulated_ranks import made_profile


@st.composite
def batch_sets(draw, *, most: int = 5) -> list[Batch]:
    """Return batches of all kinds and sizes, oldest first."""
    batches = []
    for number in range(1, draw(st.integers(1, most)) + 1):
        kind = draw(st.sampled_from(BatchKind))
        sizes = st.integers(1, 48) if kind is BatchKind.DECODE else st.sampled_from([1, 17, 100, 128, 300, 512, 1500])
        context = 0 if kind is BatchKind.ENCODE else draw(st.sampled_from([0, 5, 700]))
        batches.append(batch_of(number, kind, draw(sizes), context=context))
    return batches


@dataclass(frozen=True)
class Speeds:
    """What a made-up profile is made of; shorter to print than the profile."""

    compute_ns: int
    exchange_ns: int
    floor_ns: int
    contention: float = 1.0

    def table(self) -> ProfileTable:
        """Return the profile."""
        return made_profile(**asdict(self))


def speeds(*, contentions: tuple[float, ...] = (1.0, 1.2, 2.0)) -> st.SearchStrategy[Speeds]:
    """Return speeds from compute alone to communication alone."""
    a_token_ns = st.sampled_from([0, 3_000, 20_000, 60_000])
    floors_ns = st.sampled_from([1_000, 50_000, 400_000])
    return st.builds(Speeds, a_token_ns, a_token_ns, floors_ns, st.sampled_from(contentions))
