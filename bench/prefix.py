"""What the prefix cache saves: time to the first token of chats with one long system prompt, and with others.

    python -m bench.prefix --prompt-tokens 512 --requests 16 --json out.json

Every round has a system prompt of its own. Chats with it take turns with chats of the same length that begin otherwise;
the first with it is cold, the others find it in the cache. The whole service with two ranks is measured by a client of
its gateway, one request at a time.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.ending import exit_code_of
from bench.link.clusters import THREADS_PER_RANK
from bench.link.machine import Machine, describe_machine, read_cpu_time
from bench.link.report import show_machine
from bench.one_model import START_LIMIT_S, one_model_spec
from bench.words import draw_words
from liger import __version__
from liger.client import AsyncClient, Message
from liger.client.results import Delta
from liger.cluster_state import fetch_cluster
from liger.errors import UnavailableError
from liger.local_cluster import LocalCluster
from liger.models import resolve

_MODEL: Final = "model"
_NUM_WARM_UPS: Final = 3
_NUM_QUESTION_WORDS: Final = 12
_CALL_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    model: str  # name, folder or Hub id
    prompt_tokens: int  # of a system prompt, about
    requests: int  # of each kind, in a round
    rounds: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One chat, up to its first token."""

    round: int
    is_shared: bool  # begins with the round's system prompt; else with one of its own
    number: int  # in its round and kind, from 0
    first_s: float  # until the first token, as the client saw it
    prefill_s: float  # from its first segment to the first token, as the controller saw it
    prompt_tokens: int
    cached_tokens: int
    saved_s: float  # as the controller predicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What all probes say together; medians, in seconds."""

    cold_s: float  # to the first token: the first chat with a system prompt
    other_s: float  # chats that begin otherwise
    warm_s: float  # chats whose system prompt is cached
    ratio: float  # warm over other
    prompt_tokens: float
    cached_tokens: float  # of a warm chat
    hit_rate: float  # of the prompt tokens of warm chats, those that were cached
    predicted_s: float  # saved by the cache in a warm chat
    measured_s: float  # likewise: prefill of others less that of warm ones
    predicted_over_measured: float | None  # None if nothing was saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """What the controller tells of the whole run."""

    query_tokens: int
    hit_tokens: int
    num_cached_blocks: int


def summarise(probes: Sequence[Probe]) -> Saving:
    """Put together what probes say.

    Args:
        probes: Of each kind at least one, and of the shared kind two in a round.
    """
    others = [probe for probe in probes if not probe.is_shared]
    warm = [probe for probe in probes if probe.is_shared and probe.number > 0]
    cold = [probe for probe in probes if probe.is_shared and probe.number == 0]
    warm_s, other_s = _median([probe.first_s for probe in warm]), _median([probe.first_s for probe in others])
    predicted_s = _median([probe.saved_s for probe in warm])
    measured_s = _median([probe.prefill_s for probe in others]) - _median([probe.prefill_s for probe in warm])
    return Saving(
        cold_s=_median([probe.first_s for probe in cold]),
        other_s=other_s,
        warm_s=warm_s,
        ratio=warm_s / other_s,
        prompt_tokens=_median([probe.prompt_tokens for probe in warm]),
        cached_tokens=_median([probe.cached_tokens for probe in warm]),
        hit_rate=sum(probe.cached_tokens for probe in warm) / sum(probe.prompt_tokens for probe in warm),
        predicted_s=predicted_s,
        measured_s=measured_s,
        predicted_over_measured=predicted_s / measured_s if measured_s > 0 else None,
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


async def measure(settings: Settings) -> tuple[list[Probe], Cache]:
    """Serve the model and ask it.

    Raises:
        LigerError: The cluster does not start, or a chat fails.
    """
    cluster = LocalCluster(one_model_spec(_MODEL, resolve(settings.model)))
    num_chats = 2 * settings.requests * settings.rounds + _NUM_WARM_UPS
    async with asyncio.timeout(START_LIMIT_S + num_chats * _CALL_LIMIT_S):
        try:
            _tell("starting a cluster")
            await cluster.start()
            async with AsyncClient(cluster.gateway) as client:
                probes = await _Prober(client, settings).run()
            group = (await fetch_cluster(cluster.controller)).groups[0]
        finally:  # nothing is in flight that a drain could save
            await cluster.kill()
    cache = Cache(
        query_tokens=group.prefix_query_tokens,
        hit_tokens=group.prefix_hit_tokens,
        num_cached_blocks=group.num_cached_blocks,
    )
    return probes, cache


class _Prober:
    """Asks one chat after another."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._num_words = settings.prompt_tokens  # of a system prompt; put right by `_size`

    async def run(self) -> list[Probe]:
        await self._size()
        for number in range(_NUM_WARM_UPS):
            await self._ask(0, number, f"warm-up {number}", is_shared=False)
        probes = []
        for round_number in range(1, self._settings.rounds + 1):
            _tell(f"round {round_number} of {self._settings.rounds}")
            for number in range(self._settings.requests):
                own = f"{round_number} {number}"
                probes.append(await self._ask(round_number, number, own, is_shared=False))
                probes.append(await self._ask(round_number, number, f"{round_number} shared", is_shared=True))
        return probes

    async def _size(self) -> None:
        """Find how many words make so many tokens."""
        words = self._system("size")
        count = len((await self._client.tokenize(_MODEL, words, add_special_tokens=False)).token_ids)
        self._num_words = max(1, round(self._num_words * self._settings.prompt_tokens / count))

    def _system(self, seed: str) -> str:
        return draw_words(self._num_words, f"system {self._settings.seed} {seed}")

    async def _ask(self, round_number: int, number: int, system_seed: str, *, is_shared: bool) -> Probe:
        kind = "shared" if is_shared else "other"
        question = draw_words(_NUM_QUESTION_WORDS, f"question {self._settings.seed} {round_number} {number} {kind}")
        chat = [Message("system", self._system(system_seed)), Message("user", question)]
        began_s, first_s = time.perf_counter(), 0.0
        stream = self._client.generate(
            _MODEL, chat, max_tokens=2, ignore_eos=True, temperature=0.0, timeout_s=_CALL_LIMIT_S
        )
        async for event in stream.events():
            if isinstance(event, Delta) and event.token_ids and not first_s:
                first_s = time.perf_counter() - began_s
        if stream.usage is None or stream.timings is None or not first_s:
            raise UnavailableError("a chat ended without tokens, usage or timings")
        return Probe(
            round=round_number,
            is_shared=is_shared,
            number=number,
            first_s=first_s,
            prefill_s=stream.timings.prefill_ns / 1e9,
            prompt_tokens=stream.usage.prompt_tokens,
            cached_tokens=stream.usage.cached_tokens,
            saved_s=stream.timings.saved_prefill_ns / 1e9,
        )


def show(console: Console, settings: Settings, saving: Saving, cache: Cache, machine: Machine) -> None:
    """Print what the cache saves, and what it was measured on."""
    table = Table("time to the first token", "ms", "against other beginnings")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, first_s in (
        ("other beginnings", saving.other_s),
        ("shared, cold", saving.cold_s),
        ("shared, cached", saving.warm_s),
    ):
        table.add_row(name, f"{1000 * first_s:.1f}", f"{first_s / saving.other_s:.2f}")
    console.print(
        f"Liger+ {__version__} · {settings.model} · {settings.rounds} rounds of {settings.requests} chats a kind, "
        f"{saving.prompt_tokens:.0f} prompt tokens · medians"
    )
    console.print(table)
    against = saving.predicted_over_measured
    console.print(
        f"cached: {saving.cached_tokens:.0f} of {saving.prompt_tokens:.0f} prompt tokens of a chat with the shared "
        f"beginning, hit rate {saving.hit_rate:.2f}; all prompts: {cache.hit_tokens:,} of {cache.query_tokens:,}"
    )
    console.print(
        f"saved prefill of such a chat: predicted {1000 * saving.predicted_s:.1f} ms, measured "
        f"{1000 * saving.measured_s:.1f} ms, ratio {'–' if against is None else f'{against:.2f}'}"
    )
    show_machine(console, machine)


def main(argv: Sequence[str]) -> int:
    """Measure, print and save; return the exit code."""
    settings, path = _parse(argv)
    return exit_code_of(lambda: _measure_all(settings, path))


def _measure_all(settings: Settings, path: Path | None) -> None:
    load_before, began = os.getloadavg()[0], read_cpu_time()
    probes, cache = asyncio.run(measure(settings))
    machine = describe_machine(began, read_cpu_time(), threads_per_rank=THREADS_PER_RANK, load_before=load_before)
    saving = summarise(probes)
    show(Console(highlight=False, soft_wrap=True), settings, saving, cache, machine)
    if path is not None:
        table = {
            "version": __version__,
            "settings": asdict(settings),
            "machine": asdict(machine),
            "summary": asdict(saving) | {"cache": asdict(cache)},
            "probes": [asdict(probe) for probe in probes],
        }
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _parse(argv: Sequence[str]) -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench.prefix", description=(__doc__ or "").splitlines()[0])
    given = "(default: %(default)s)"
    parser.add_argument("--model", default="smollm2-135m-instruct", help=f"name, folder or Hub id {given}")
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help=f"of a system prompt {given}")
    parser.add_argument("--requests", type=int, default=16, metavar="N", help=f"of each kind, in a round {given}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help=f"with a system prompt each {given}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"of all texts {given}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="settings, machine, every chat and the summary")
    args = parser.parse_args(argv)
    if args.requests < 2 or min(args.prompt_tokens, args.rounds) < 1:
        parser.error("--requests must be at least 2, --prompt-tokens and --rounds at least 1")
    settings = Settings(
        model=args.model,
        prompt_tokens=args.prompt_tokens,
        requests=args.requests,
        rounds=args.rounds,
        seed=args.seed,
    )
    return settings, args.json


def _tell(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
