"""`python -m bench.link`: measure, print and save."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.link.clusters import THREADS_PER_RANK, Contest
from bench.link.machine import describe_machine, read_cpu_time
from bench.link.measure import Measurement
from bench.link.network import Network
from bench.link.progress import Teller, num_steps
from bench.link.report import LoadReport, describe_run, report_load, show, show_machine, to_json, to_svg
from bench.link.settings import Orders, Settings, parse_orders
from bench.link.testbed import remove_leftovers, slow_link
from liger.errors import ConfigError, LigerError
from liger.lifecycle import EXIT_CONFIG, EXIT_FAILED

_INTERRUPTED: Final = 130
_PIPED_WIDTH: Final = 160


def main(argv: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    orders = parse_orders(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):  # end as Ctrl-C does: everything is cleaned up
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if orders.cleanup:
            print("removed:", ", ".join(remove_leftovers()) or "nothing")
        else:
            _measure_all(orders)
    except KeyboardInterrupt:
        print("interrupted; the link and the clusters are gone", file=sys.stderr)
        return _INTERRUPTED
    except LigerError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    return 0


def _measure_all(orders: Orders) -> None:
    settings = orders.settings
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    load_before, began = os.getloadavg()[0], read_cpu_time()
    reports = _measure_on_link(settings, console, keep_logs=orders.keep_logs)
    machine = describe_machine(began, read_cpu_time(), threads_per_rank=THREADS_PER_RANK, load_before=load_before)
    for report in reports:
        show(console, settings, report)
    show_machine(console, machine)
    if orders.json is not None:
        orders.json.write_text(to_json(settings, machine, reports), encoding="utf-8")
    if orders.svg is not None:
        orders.svg.write_text(to_svg(settings, reports), encoding="utf-8")


def _measure_on_link(settings: Settings, console: Console, *, keep_logs: bool) -> list[LoadReport]:
    """Measure every load; logs stay if asked for, or if something went wrong."""
    logs = Path(tempfile.mkdtemp(prefix="liger-bench-link-"))
    try:
        with slow_link(settings.ranks, settings.rate) as network, Teller(console, num_steps(settings)) as teller:
            reports = asyncio.run(_measure(settings, network, logs, teller))
    except LigerError:
        keep_logs = any(logs.iterdir())
        raise
    finally:
        if keep_logs:
            console.print(f"the services' logs are in {logs}", soft_wrap=True)
        else:
            shutil.rmtree(logs, ignore_errors=True)
    return reports


async def _measure(settings: Settings, network: Network, logs: Path, teller: Teller) -> list[LoadReport]:
    reports = []
    for load in settings.loads:
        contest = Contest(settings=settings, network=network, load=load, logs=logs)
        measurement = Measurement(contest, teller.begin, lambda run: teller.note(describe_run(run)))
        reports.append(report_load(settings, load, await measurement.run()))
    return reports


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
