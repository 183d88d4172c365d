"""Tokens a second of one chat model: the whole service with one rank against transformers' own `generate`.

    python -m bench.generation --threads 2 --rounds 3 --json out.json

Both run in turn, on the same prompt, with the same threads and number format; each has a process of its own, which
idles while the other runs. The service is measured by a client of its gateway: tokenising, batching and streaming
included.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.reference import Reference
from liger.client import AsyncClient
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster
from liger.models import resolve

PROMPT: Final = "Write a short story about a lighthouse keeper who finds a message in a bottle."


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    model: str
    dtype: str
    threads: int
    num_tokens: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Tokens a second of each, one after the other. Prefill is part of it."""

    service: float
    transformers: float


async def measure(settings: Settings) -> list[Round]:
    """Run service and reference in turn; the first round of each, which warms up, is not counted."""
    folder = resolve(settings.model)
    group = GroupSpec(model_folder=folder, model_name=settings.model, options={"dtype": settings.dtype})
    spec = ClusterSpec(groups=(group,), threads_per_worker=settings.threads)
    rounds = []
    async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway) as client:
        ids = (await client.tokenize(settings.model, PROMPT)).token_ids
        async with Reference(folder, settings.dtype, settings.threads) as reference:
            for number in range(settings.rounds + 1):
                service = await _run_service(client, settings)
                rounds.append(Round(service=service, transformers=await reference.run(ids, settings.num_tokens)))
                print(f"round {number}: {_describe(rounds[-1])}{' (warm-up)' if number == 0 else ''}", flush=True)
    return rounds[1:]


async def _run_service(client: AsyncClient, settings: Settings) -> float:
    began_s = time.perf_counter()
    stream = client.generate(settings.model, PROMPT, max_tokens=settings.num_tokens, ignore_eos=True)
    await stream.text()
    assert stream.finished[0].num_tokens == settings.num_tokens, "every run makes the same number of tokens"
    return settings.num_tokens / (time.perf_counter() - began_s)


def _describe(result: Round) -> str:
    ratio = result.service / result.transformers
    return f"service {result.service:.1f} tokens/s, transformers {result.transformers:.1f} tokens/s, ratio {ratio:.2f}"


def _settings(argv: list[str]) -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="name, folder or Hub id (default: %(default)s)"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side (default: all cores)")
    parser.add_argument("--tokens", type=int, default=128, help="made in each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="counted, after one to warm up (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for settings, rounds and summary")
    args = parser.parse_args(argv)
    if min(args.threads, args.tokens, args.rounds) < 1:
        parser.error("--threads, --tokens and --rounds must be at least 1")
    settings = Settings(
        model=args.model, dtype=args.dtype, threads=args.threads, num_tokens=args.tokens, rounds=args.rounds
    )
    return settings, args.json


def main(argv: list[str]) -> None:
    """Measure, print and save."""
    settings, path = _settings(argv)
    rounds = asyncio.run(measure(settings))
    ratio = statistics.median(one.service / one.transformers for one in rounds)
    load = os.getloadavg()[0]
    print(
        f"median ratio {ratio:.2f} ({settings.threads} threads, {settings.dtype}; machine's load at the end {load:.1f})"
    )
    if path is not None:
        table = {
            "settings": asdict(settings),
            "rounds": [asdict(one) for one in rounds],
            "summary": {"ratio": ratio, "load": load},
        }
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
