"""What is measured, from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.link.clusters import THREADS_PER_RANK
from bench.mixed import __doc__ as about
from bench.mixed import made_smollm2

NO_RATE: Final = "none"
_LONGEST_S: Final = 600.0
_MOST_STREAMS: Final = 64
_MOST_CALLS: Final = 1024
_MOST_THREADS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    model: str  # name, folder or Hub id; `made_smollm2.NAME` is made on the spot
    threads: int  # of each rank
    streams: int  # generations at once, each followed by the next
    seconds: float  # counted, of every phase
    warm_up_s: float  # of every phase, before them
    rounds: int
    weights: str  # as --task-weights of the controller takes them
    share: float  # of the embeddings' rate at saturation, at which they come beside the streams
    outstanding: int  # embeddings under way at once, at saturation
    rate: str  # of the link between ranks, as tc takes it; empty for loopback
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be done."""

    settings: Settings
    json: Path | None


def parse_orders(argv: Sequence[str]) -> Orders:
    """Read the command line; exits with a message if it is wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not 1 <= args.streams <= _MOST_STREAMS or not 1 <= args.outstanding <= _MOST_CALLS or args.rounds < 1:
        parser.error(f"--streams takes 1 to {_MOST_STREAMS}, --outstanding 1 to {_MOST_CALLS}, --rounds at least 1")
    if not 1 <= args.threads <= _MOST_THREADS:
        parser.error(f"--threads takes 1 to {_MOST_THREADS}")
    if not 0 < args.seconds <= _LONGEST_S or not 0 <= args.warm_up <= _LONGEST_S or not 0 < args.share <= 2:
        parser.error(f"--seconds and --warm-up take at most {_LONGEST_S:g} seconds, --share takes above 0, at most 2")
    settings = Settings(
        model=args.model,
        threads=args.threads,
        streams=args.streams,
        seconds=args.seconds,
        warm_up_s=args.warm_up,
        rounds=args.rounds,
        weights=args.weights,
        share=args.share,
        outstanding=args.outstanding,
        rate="" if args.rate == NO_RATE else args.rate,
        seed=args.seed,
    )
    return Orders(settings=settings, json=args.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed", description=(about or "").partition(":")[0] + ".")
    given = "(default: %(default)s)"
    parser.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help=f"name, folder or Hub id; {made_smollm2.NAME} has its shape, random weights and no tokenizer {given}",
    )
    parser.add_argument(
        "--threads", type=int, default=THREADS_PER_RANK, metavar="N", help=f"with which each rank computes {given}"
    )
    parser.add_argument("--streams", type=int, default=4, metavar="N", help=f"generations at once {given}")
    parser.add_argument("--seconds", type=float, default=30, metavar="S", help=f"counted, of every phase {given}")
    parser.add_argument("--warm-up", type=float, default=5, metavar="S", help=f"before them {given}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help=f"figures are medians over them {given}")
    parser.add_argument("--weights", default="generate=4,embed=1", help=f"of the controller that has some {given}")
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        metavar="X",
        help=f"of their rate at saturation that embeddings have {given}",
    )
    parser.add_argument(
        "--outstanding", type=int, default=96, metavar="N", help=f"embeddings under way at saturation {given}"
    )
    parser.add_argument(
        "--rate", default=NO_RATE, help=f"of the link between the ranks, such as 500mbit; needs root {given}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"of calls and arrivals {given}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="settings, machine, every phase and the summary")
    return parser
