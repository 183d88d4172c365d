"""`python -m bench.mixed`: measure, print and save."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from rich.console import Console

from bench.ending import exit_code_of
from bench.link.load import CALL_LIMIT_S
from bench.link.machine import describe_machine, read_cpu_time
from bench.link.network import Place
from bench.link.progress import Teller
from bench.link.testbed import slow_link
from bench.mixed.clusters import running_services
from bench.mixed.figures import PhaseRun
from bench.mixed.phases import Measurement, num_steps
from bench.mixed.report import describe_run, show, to_json
from bench.mixed.settings import Orders, Settings, parse_orders
from bench.one_model import NUM_RANKS, START_LIMIT_S

_PIPED_WIDTH: Final = 160


def main(argv: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    orders = parse_orders(argv)
    return exit_code_of(lambda: _measure_all(orders))


def _measure_all(orders: Orders) -> None:
    settings = orders.settings
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    load_before, began = os.getloadavg()[0], read_cpu_time()
    with ExitStack() as stack:
        places = stack.enter_context(slow_link(NUM_RANKS, settings.rate)).places if settings.rate else ()
        teller = stack.enter_context(Teller(console, num_steps(settings)))
        runs = asyncio.run(_measure(settings, places, teller))
    machine = describe_machine(began, read_cpu_time(), threads_per_rank=settings.threads, load_before=load_before)
    show(console, settings, machine, runs)
    if orders.json is not None:
        orders.json.write_text(to_json(settings, machine, runs), encoding="utf-8")


async def _measure(settings: Settings, places: Sequence[Place], teller: Teller) -> list[PhaseRun]:
    async with asyncio.timeout(_limit_s(settings)), running_services(settings, places, teller.begin) as services:
        return await Measurement(settings, services, teller.begin, lambda run: teller.note(describe_run(run))).run()


def _limit_s(settings: Settings) -> float:
    """Return a bound of the whole run: every phase, and the longest that its last calls may take."""
    phase_s = settings.warm_up_s + settings.seconds + 2 * CALL_LIMIT_S
    return 2 * START_LIMIT_S + num_steps(settings) * phase_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
