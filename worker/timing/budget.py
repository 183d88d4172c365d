"""How long launching is expected to take."""

from typing import Final

_FIRST_NS: Final = 150_000  # of one segment or exchange
_MOST_NS: Final = 20_000_000  # of a run; what takes longer waits for the device, whose time is then told well enough


class LaunchBudget:
    """What the host takes to launch a kind of run, learnt from run to run.

    Args:
        num_launches: Segments and exchanges of a run.
    """

    def __init__(self, num_launches: int) -> None:
        self.expected_ns = min(num_launches * _FIRST_NS, _MOST_NS)

    def learn(self, launched_ns: int) -> None:
        """Expect as long as a run took, and some time more; runs are seldom faster than expected by chance."""
        self.expected_ns = min(max(self.expected_ns, launched_ns * 5 // 4), _MOST_NS)
