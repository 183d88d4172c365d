"""Made-up points."""

from bench.link.figures import Figures
from bench.link.lanes import Lanes
from bench.link.runs import SATURATION, Run
from bench.link.work import Load


def figures(**values) -> Figures:
    usual = {
        "num_calls": 10, "num_failed": 0, "error": "", "calls_per_s": 10.0, "tokens_per_s": 1000.0, "mean_s": 0.1,
        "p50_s": 0.1, "p90_s": 0.2, "p99_s": 0.3, "compute_s": 0.05, "exposed_s": 0.02, "depth": 1.0,
    }  # fmt: skip
    return Figures(**{**usual, **values})


def busy(contestant: str, tokens_per_s: float, *, round: int = 1, lanes: Lanes | None = None) -> Run:  # noqa: A002
    """A point at which there was always work."""
    return Run(
        load=Load.DISCRIMINATIVE, strategy=contestant, round=round, label=SATURATION, rate=None, lanes=lanes,
        figures=figures(tokens_per_s=tokens_per_s, calls_per_s=tokens_per_s / 100),
    )  # fmt: skip


def at_rate(contestant: str, label: str, rate: float, p90_s: float, *, round: int = 1) -> Run:  # noqa: A002
    """A point whose calls came by chance."""
    return Run(
        load=Load.DISCRIMINATIVE, strategy=contestant, round=round, label=label, rate=rate, lanes=None,
        figures=figures(p90_s=p90_s),
    )  # fmt: skip


def lanes(compute_s: float, communication_s: float, covered_share: float = 0.0) -> Lanes:
    return Lanes(
        compute_s_per_token=compute_s, communication_s_per_token=communication_s, covered_share=covered_share
    )  # fmt: skip
