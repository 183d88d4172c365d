"""What is measured, from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench.link.network import MAX_RANKS
from bench.link.work import Load

STRATEGIES: Final = ("tensor", "pipeline", "interleaved")
_HEAD_DIM: Final = 64
_TEXT: Final = """\
Interleaved, tensor and pipeline parallelism side by side over a slow link.

Makes a link of the rate asked for between network namespaces (needs root and iproute2; all is removed at the end),
starts a cluster for each strategy with one rank and one thread in each namespace, and measures through their gateways:
first what each sustains when it always has work, then latencies at several rates of calls that come by chance.
Strategies take turns, and get the same calls at the same times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What is taken where the command line says nothing."""

    layers: int
    hidden: int
    rounds: int
    seconds: float
    max_batch_tokens: int


_USUAL: Final = Defaults(layers=4, hidden=1024, rounds=3, seconds=12, max_batch_tokens=512)
_QUICK: Final = Defaults(layers=2, hidden=512, rounds=1, seconds=0.3, max_batch_tokens=256)
_ValueT = TypeVar("_ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    rate: str  # of the link, as tc takes it
    ranks: int
    layers: int
    hidden: int
    rounds: int
    seconds: float  # of one point
    loads: tuple[Load, ...]
    strategies: tuple[str, ...]
    max_batch_tokens: int
    seed: int
    quick: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be done."""

    settings: Settings
    json: Path | None
    svg: Path | None
    keep_logs: bool
    cleanup: bool  # and nothing else


def parse_orders(argv: Sequence[str]) -> Orders:
    """Read the command line; exits with a message if it is wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    usual = _QUICK if args.quick else _USUAL
    settings = Settings(
        rate=args.rate,
        ranks=args.ranks,
        layers=_or(args.layers, usual.layers),
        hidden=_or(args.hidden, usual.hidden),
        rounds=_or(args.rounds, usual.rounds),
        seconds=_or(args.seconds, usual.seconds),
        loads=tuple(Load(name) for name in _names(parser, "--loads", args.loads, [load.value for load in Load])),
        strategies=tuple(_names(parser, "--strategies", args.strategies, STRATEGIES)),
        max_batch_tokens=_or(args.max_batch_tokens, usual.max_batch_tokens),
        seed=args.seed,
        quick=args.quick,
    )
    _check(parser, settings)
    return Orders(
        settings=settings, json=args.json, svg=args.svg, keep_logs=args.keep_logs, cleanup=args.cleanup
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.link", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = "(default: %(default)s)"
    testbed = parser.add_argument_group("testbed")
    testbed.add_argument("--rate", default="500mbit", help=f"of the link, each way, as tc takes it {given}")
    testbed.add_argument("--ranks", type=int, default=2, metavar="N", help=f"of each group {given}")
    testbed.add_argument("--cleanup", action="store_true", help="only remove what killed runs left on this machine")
    models = parser.add_argument_group("models (random weights, made on the spot)")
    models.add_argument("--layers", type=int, metavar="N", help=f"of each model {_default('layers')}")
    models.add_argument("--hidden", type=int, metavar="N", help=f"their width, a multiple of 64 {_default('hidden')}")
    work = parser.add_argument_group("measurement")
    work.add_argument("--loads", default="discriminative,generative", metavar="NAMES", help=given.strip("()"))
    work.add_argument("--strategies", default=",".join(STRATEGIES), metavar="NAMES", help=f"tensor is needed {given}")
    work.add_argument("--rounds", type=int, metavar="N", help=f"figures are medians over them {_default('rounds')}")
    work.add_argument("--seconds", type=float, metavar="S", help=f"of each point {_default('seconds')}")
    work.add_argument(
        "--max-batch-tokens", type=int, metavar="N", help=f"of all clusters {_default('max_batch_tokens')}"
    )
    work.add_argument("--seed", type=int, default=0, metavar="N", help=f"of calls and arrivals {given}")
    work.add_argument("--quick", action="store_true", help="a rough look in less than a minute")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="settings, machine, every point and the summary")
    output.add_argument("--svg", type=Path, metavar="FILE", help="latency over rate, one line a strategy")
    output.add_argument("--keep-logs", action="store_true", help="do not remove the services' logs at the end")
    return parser


def _default(name: str) -> str:
    return f"(default: {getattr(_USUAL, name)}; {getattr(_QUICK, name)} if quick)"


def _or(given: _ValueT | None, usual: _ValueT) -> _ValueT:
    return usual if given is None else given


def _names(parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if not names or unknown:
        parser.error(f"{flag} takes {', '.join(known)}, with commas between, not {', '.join(unknown) or repr(text)}")
    return names


def _check(parser: argparse.ArgumentParser, settings: Settings) -> None:
    if not 2 <= settings.ranks <= MAX_RANKS:
        parser.error(f"--ranks must be 2 to {MAX_RANKS}")
    if settings.hidden < _HEAD_DIM or settings.hidden % _HEAD_DIM:
        parser.error(f"--hidden must be a multiple of {_HEAD_DIM}")
    if min(settings.layers, settings.rounds) < 1:
        parser.error("--layers and --rounds must be at least 1")
    if "pipeline" in settings.strategies and settings.layers < settings.ranks:
        parser.error("pipeline needs a layer for each rank: give more --layers or fewer --ranks")
    if not 0 < settings.seconds <= 600:
        parser.error("--seconds must be above 0, at most 600")
    if settings.max_batch_tokens < 128:
        parser.error("--max-batch-tokens must hold the longest input: at least 128")
    if "tensor" not in settings.strategies:
        parser.error("--strategies must hold tensor: the rates are shares of what it sustains")
