"""What is measured, from the command line; ranks get the same as JSON."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from bench.gpu.shapes import SHAPES

PARTS: Final = ("profile", "data-plane", "decode", "service")
LINKS: Final = ("auto", "host")
DEVICES: Final = ("cuda", "cpu")
STRATEGIES: Final = ("tensor", "pipeline", "interleaved")
DTYPES: Final = ("bfloat16", "float16", "float32")
MAX_RANKS: Final = 8
_TEXT: Final = """\
The GPU data plane: serial tensor parallelism, interleaving and pipelines side by side, with random weights.

Starts one process a rank: one GPU each where there are as many, else several on one GPU, in MPS partitions. Each runs
the product's own executor, planner and communicators. Rows are written to the JSON file as they come, so that a run
that is cut short leaves what it had. Ratios are of one run; quote them with the testbed that the JSON names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    ranks: int
    link: str  # auto: what the machine has; host: staged in host memory
    device: str
    eager: bool  # without CUDA graphs
    dtype: str
    shapes: tuple[str, ...]
    tokens: tuple[int, ...]  # of a batch
    layers: int
    parts: tuple[str, ...]
    depths: tuple[int, ...]  # of interleaving
    exchange: str  # communicator of interleaving; empty for the device's own choice
    rounds: int  # figures are medians over them
    flow_ms: float  # a timed flow of batches lasts about so long
    max_pieces: int  # into which a segment may be decomposed
    decode_sizes: tuple[int, ...]  # sequences that decode
    context: int  # tokens behind each
    chunk: int  # tokens of a prefill batch beside them
    limit_s: float  # of the whole run
    profile_limit_s: float
    service_layers: int
    service_tokens: int  # of a batch
    service_strategies: tuple[str, ...]
    service_seconds: float  # of a point
    seed: int

    @property
    def max_tokens(self) -> int:
        """The most tokens of any batch."""
        return max(*self.tokens, *self.decode_sizes, self.chunk)

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return what `to_json` wrote."""
        table: dict[str, Any] = json.loads(text)
        return cls(**_frozen(table))


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be done."""

    settings: Settings
    json: Path | None


def parse_orders(argv: Sequence[str]) -> Orders:
    """Read the command line; exits with a message if it is wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    settings = Settings(**_frozen({field.name: getattr(args, field.name) for field in fields(Settings)}))
    _check(parser, settings)
    return Orders(settings=settings, json=args.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = "(default: %(default)s)"
    testbed = parser.add_argument_group("testbed")
    testbed.add_argument("--ranks", type=int, default=2, metavar="N", help=given)
    testbed.add_argument("--link", choices=LINKS, default="auto", help=f"between ranks {given}")
    testbed.add_argument("--device", choices=DEVICES, default="cuda", help=f"cpu only proves the bench {given}")
    testbed.add_argument("--eager", action="store_true", help="without CUDA graphs")
    testbed.add_argument("--dtype", choices=DTYPES, default="bfloat16", help=given)
    work = parser.add_argument_group("measurement")
    work.add_argument("--shapes", type=_names, default=["8b", "70b"], metavar="NAMES", help=f"of {', '.join(SHAPES)}")
    work.add_argument("--tokens", type=_counts, default=[128, 512, 1024, 2048, 4096, 8192], metavar="N,N", help=given)
    work.add_argument("--layers", type=int, default=4, metavar="N", help=f"of each model {given}")
    work.add_argument("--parts", type=_names, default=list(PARTS), metavar="NAMES", help=given)
    work.add_argument("--depths", type=_counts, default=[2, 3], metavar="N,N", help=f"of interleaving {given}")
    work.add_argument(
        "--exchange",
        default="",
        metavar="NAME",
        help="of interleaving (default: auto; copy-engine on one GPU)",
    )
    work.add_argument("--rounds", type=int, default=3, metavar="N", help=f"figures are medians over them {given}")
    work.add_argument("--max-pieces", type=int, default=4, metavar="N", help=f"of a segment; 1 for none {given}")
    work.add_argument("--flow-ms", type=float, default=120.0, metavar="MS", help=f"of a timed flow {given}")
    work.add_argument("--decode-sizes", type=_counts, default=[8, 32, 128, 256], metavar="N,N", help=given)
    work.add_argument("--context", type=int, default=1024, metavar="N", help=f"tokens behind each that decodes {given}")
    work.add_argument("--chunk", type=int, default=512, metavar="N", help=f"tokens prefilled beside decodes {given}")
    work.add_argument("--profile-limit-s", type=float, default=20.0, metavar="S", help=f"of each shape {given}")
    work.add_argument("--service-layers", type=int, default=16, metavar="N", help=f"of the served model {given}")
    work.add_argument("--service-tokens", type=int, default=2048, metavar="N", help=f"of its batches at most {given}")
    work.add_argument("--service-strategies", type=_names, default=["tensor", "interleaved"], metavar="NAMES")
    work.add_argument("--service-seconds", type=float, default=6.0, metavar="S", help=f"of each point {given}")
    work.add_argument("--seed", type=int, default=0, metavar="N", help=given)
    work.add_argument("--limit-s", type=float, default=1500.0, metavar="S", help=f"of the whole run {given}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written anew with every row")
    return parser


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def _check(parser: argparse.ArgumentParser, settings: Settings) -> None:
    for flag, names, known in (
        ("--shapes", settings.shapes, tuple(SHAPES)),
        ("--parts", settings.parts, PARTS),
        ("--service-strategies", settings.service_strategies, STRATEGIES),
    ):
        if not names or not set(names) <= set(known):
            parser.error(f"{flag} takes {', '.join(known)}, with commas between")
    if not 2 <= settings.ranks <= MAX_RANKS:
        parser.error(f"--ranks must be 2 to {MAX_RANKS}")
    counts = (*settings.tokens, *settings.decode_sizes, settings.layers, settings.rounds, settings.context)
    counts += (settings.max_pieces,)
    if (
        not settings.tokens
        or not settings.decode_sizes
        or min(*counts, settings.chunk, settings.service_layers, settings.service_tokens) < 1
    ):
        parser.error("counts must be at least 1")
    if min(settings.decode_sizes) < 2:
        parser.error("--decode-sizes must be at least 2: they are run in two halves")
    if not settings.depths or not set(settings.depths) <= {2, 3, 4}:
        parser.error("--depths takes 2, 3 and 4")
    if not all(0 < limit < float("inf") for limit in _limits(settings)):
        parser.error("times must be above 0")


def _limits(settings: Settings) -> tuple[float, ...]:
    return settings.limit_s, settings.profile_limit_s, settings.flow_ms, settings.service_seconds
