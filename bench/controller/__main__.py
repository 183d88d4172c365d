"""`python -m bench.controller`: measure, print and save."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.controller import __doc__ as about
from bench.controller.core import measure_core
from bench.controller.loopback import measure_loopback
from bench.controller.made_up import Load
from bench.controller.report import Report, show, to_json
from bench.controller.service import measure_service
from bench.ending import exit_code_of
from bench.link.machine import describe_machine, read_cpu_time

_LIMIT_S: Final = 180.0  # beyond what was asked for: starting, stopping
_MOST_SEQUENCES: Final = 4096


def main(arguments: Sequence[str]) -> int:
    """Measure, show, and write a file if one is named; return the exit code."""
    asked = _parse(arguments)
    return exit_code_of(lambda: _measure_and_show(asked))


def _measure_and_show(asked: argparse.Namespace) -> None:
    report = asyncio.run(_measure(asked))
    show(Console(highlight=False, soft_wrap=True), report)
    if asked.json is not None:
        asked.json.write_text(to_json(report), encoding="utf-8")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.controller", description=(about or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=256, help="that run at once (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=10.0,
        help="of each of three measurements, after as many to warm up (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ranks", type=int, default=2, help="simulated ones (default: %(default)s)")
    parser.add_argument("--strategy", choices=["interleaved", "tensor"], default="interleaved")
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args(arguments)
    if not 1 <= asked.sequences <= _MOST_SEQUENCES or asked.ranks < 1 or not 0 < asked.seconds < float("inf"):
        parser.error(f"--sequences takes 1 to {_MOST_SEQUENCES}, --ranks at least 1, --seconds a positive number")
    return asked


async def _measure(asked: argparse.Namespace) -> Report:
    cores = sorted(os.sched_getaffinity(0))
    load, load_before, began = Load(asked.sequences), os.getloadavg()[0], read_cpu_time()
    os.sched_setaffinity(0, cores[1:] or cores)  # the first is the controller's
    try:
        async with asyncio.timeout(6 * asked.seconds + _LIMIT_S):
            _tell("1 of 3: the scheduler alone", asked.seconds)
            core = await measure_core(asked.strategy, load, asked.ranks, asked.seconds)
            _tell("2 of 3: with messages, without gRPC", asked.seconds)
            loopback = await measure_loopback(asked.strategy, load, asked.ranks, asked.seconds)
            _tell("3 of 3: the service, with workers and a gateway", asked.seconds)
            service = await measure_service(asked.strategy, load, asked.ranks, asked.seconds, cores[0])
    finally:
        os.sched_setaffinity(0, cores)
    return Report(
        strategy=asked.strategy,
        num_sequences=asked.sequences,
        num_ranks=asked.ranks,
        seconds=asked.seconds,
        machine=describe_machine(began, read_cpu_time(), threads_per_rank=1, load_before=load_before),
        in_process=(core, loopback),
        service=service,
    )


def _tell(step: str, seconds: float) -> None:
    print(f"{step} ({2 * seconds:g} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
