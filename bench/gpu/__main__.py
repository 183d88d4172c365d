"""`python -m bench.gpu`: measure, print and save."""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.ending import exit_code_of
from bench.gpu.launch import RankCommand, Ranks
from bench.gpu.report import describe_row, tables
from bench.gpu.results import Results
from bench.gpu.service import ServiceBed, ServiceBench
from bench.gpu.settings import Settings, parse_orders
from bench.gpu.testbed import describe, environment, find_gpus, partitions
from liger.errors import LigerError

_SERVICE_S: Final = 240.0  # kept for the service at the end, of a long run
_RANK_PARTS: Final = frozenset({"profile", "data-plane", "decode"})


def main(argv: Sequence[str]) -> int:
    """Do what the command line says and return the exit code: 0 also where there is no GPU, which is said aloud."""
    orders = parse_orders(argv)
    settings, gpus = orders.settings, find_gpus()
    if settings.device == "cuda" and not gpus:
        print("no GPU here (nvidia-smi finds none): NOTHING WAS MEASURED; --device cpu proves the bench itself")
        Results(settings, None, orders.json).end("nothing was measured: no GPU")
        return 0
    return exit_code_of(lambda: _measure_all(settings, gpus, orders.json))


def _measure_all(settings: Settings, gpus: tuple[str, ...], path: Path | None) -> None:
    until_s = time.time() + settings.limit_s
    with _partitioned(settings, gpus) as (partition, note):
        testbed = describe(settings, gpus, is_partitioned=bool(partition), note=note)
        results = Results(settings, testbed, path)
        results.save()
        print(f"{testbed.name}; link {testbed.link}{f'; {note}' if note else ''}", flush=True)
        try:
            if _RANK_PARTS & set(settings.parts):
                _run_ranks(settings, len(gpus), partition, results, until_s)
            if "service" in settings.parts:
                _run_service(settings, len(gpus), partition, results, until_s)
            results.end("complete")
        except BaseException as error:
            results.end(f"cut short: {error.message if isinstance(error, LigerError) else type(error).__name__}")
            raise
        finally:
            print(f"\n{tables(results, testbed)}", flush=True)


@contextmanager
def _partitioned(settings: Settings, gpus: tuple[str, ...]) -> Iterator[tuple[Mapping[str, str], str]]:
    """Give the ranks' share of a GPU if they have to share one, and what is to be said of it."""
    if settings.device == "cpu" or len(gpus) >= settings.ranks:
        yield {}, ""
        return
    with partitions(-(-settings.ranks // len(gpus))) as partition:
        yield partition, "" if partition else "MPS cannot be started here: ranks take turns on the GPU"


def _run_ranks(
    settings: Settings, num_gpus: int, partition: Mapping[str, str], results: Results, until_s: float
) -> None:
    began_s = time.time()
    kept_s = min(_SERVICE_S, settings.limit_s / 3) if "service" in settings.parts else 0.0
    folder = tempfile.mkdtemp(prefix="liger-bench-gpu-")

    def tell(rank: int, line: str) -> None:
        print(f"{time.time() - began_s:5.0f} s  [{rank}] {line}", flush=True)

    def note(kind: str, row: Mapping[str, Any]) -> None:
        results.add(kind, row)
        if line := describe_row(kind, row):
            tell(0, line)

    commands = [
        RankCommand(
            module="bench.gpu.rank",
            arguments=(folder, str(rank), str(num_gpus), repr(until_s - kept_s), settings.to_json()),
            environ=environment(settings, rank, num_gpus=num_gpus, partition=partition),
        )
        for rank in range(settings.ranks)
    ]
    try:
        with Ranks(commands) as ranks:
            ranks.follow(note, tell, until_s=until_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_service(
    settings: Settings, num_gpus: int, partition: Mapping[str, str], results: Results, until_s: float
) -> None:
    began_s = time.time()
    folder = Path(tempfile.mkdtemp(prefix="liger-bench-gpu-"))

    def tell(line: str) -> None:
        print(f"{time.time() - began_s:5.0f} s  {line}", flush=True)

    def note(row: dict[str, object]) -> None:
        results.add("service", row)
        tell(describe_row("service", row))

    bed = ServiceBed(
        settings=settings,
        num_gpus=num_gpus,
        partition=partition,
        folder=folder,
        planes=results.rows["data_plane"],
        tell=tell,
    )

    async def run() -> None:
        async with asyncio.timeout(max(until_s - time.time(), 1.0)):
            await ServiceBench(bed, note).run()

    try:
        asyncio.run(run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
