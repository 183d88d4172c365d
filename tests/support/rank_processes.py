"""All ranks of a group as processes, for devices: one process holds one rank's streams and memory."""

import multiprocessing
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from liger.digest import launch_digest, order_digest
from liger.profile import ProfileTable
from liger.schedule import BatchOutcome, Pattern, Window, WindowOutcome
from tests.support.forwards import FENCE
from worker.config import WorkerConfig
from worker.rank import Joined, JoinPlan

LIMIT_S = 120.0
NUM_SLOTS = 4
Planned = tuple[Pattern, Window]


class RankProcesses:
    """Ranks that have joined, in rank order."""

    def __init__(self, pipes: Sequence[Connection], plans: Sequence[JoinPlan]) -> None:
        self._pipes = pipes
        endpoint = self._each("open", [()] * len(pipes))[0]
        self.joined: list[Joined] = self._each("join", [(plan, endpoint) for plan in plans])
        self.forwards = dict(self.joined[0].forwards)

    def run_all(self, schedule: Iterable[Planned], ahead: int = 2) -> dict[int, BatchOutcome]:
        """Run windows, so many of them ahead of what was read; return what each batch gave."""
        windows = list(schedule)
        found: dict[int, BatchOutcome] = {}
        for outcomes in zip(*self._each("run", [(windows, ahead)] * len(self._pipes)), strict=True):
            self._check(windows[outcomes[0].number - 1], outcomes)
            for outcome in outcomes:
                found.update({batch.batch_id: batch for batch in outcome.batches})
        return found

    def profile(self, *, fresh: bool = False) -> list[ProfileTable]:
        """Return what each rank takes as measured; comes before windows."""
        return self._each("profile", [(fresh,)] * len(self._pipes))

    def num_graphs(self) -> list[int]:
        """Return how many graphs each rank holds."""
        return self._each("num_graphs", [()] * len(self._pipes))

    def close(self) -> None:
        """End all ranks."""
        for pipe in self._pipes:
            pipe.send(("close", ()))

    def _check(self, planned: Planned, outcomes: Sequence[WindowOutcome]) -> None:
        pattern, window = planned
        for rank, outcome in enumerate(outcomes):
            expected = launch_digest(pattern.steps, rank)
            assert outcome.launched_digest == order_digest(expected, window.batch_ids)
        assert len({outcome.sampled_digest for outcome in outcomes}) == 1, "the ranks drew alike"

    def _each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        for pipe, given in zip(self._pipes, arguments, strict=True):
            pipe.send((name, given))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(LIMIT_S), f"rank {rank} does not answer to {name}"
            is_good, answer = pipe.recv()
            assert is_good, f"rank {rank} failed in {name}: {answer}"
            answers.append(answer)
        return answers


@contextmanager
def running_processes(folder: Path, *, tp_size: int, devices: Sequence[str], **config: Any) -> Iterator[RankProcesses]:
    """Run the ranks of a group, each on its device.

    Args:
        folder: The model's.
        tp_size: Ranks.
        devices: Of each rank.
        config: More of WorkerConfig, and `max_batch_tokens`.
    """
    most = config.pop("max_batch_tokens", 64)
    context = multiprocessing.get_context("spawn")
    own = {"kv_cache_gib": 0.002, "block_size": 16, "exchange_limit_s": 30.0, **config}
    pipes, processes = [], []
    for device in devices:
        here, there = context.Pipe()
        settings = WorkerConfig(model_folder=folder, tp_size=tp_size, device=device, **own)
        processes.append(context.Process(target=serve_rank, args=(there, settings), daemon=True))
        processes[-1].start()
        pipes.append(here)
    plans = [
        JoinPlan(
            fence=FENCE,
            tp_rank=rank,
            tp_size=tp_size,
            pp_stage=0,
            pp_size=1,
            rendezvous_endpoint="",
            num_slots=NUM_SLOTS,
            max_batch_tokens=most,
            num_rows=16,
            stage_layers=(3,),
        )
        for rank in range(tp_size)
    ]
    try:
        group = RankProcesses(pipes, plans)
        yield group
        group.close()
    finally:
        for process in processes:
            process.join(20.0)
            if process.is_alive():
                process.kill()
                process.join()


def serve_rank(pipe: Connection, config: WorkerConfig) -> None:
    """Serve one rank until it is closed; runs in its own process."""
    rank = _Rank(config)
    while True:
        name, arguments = pipe.recv()
        if name == "close":
            rank.close()
            return
        try:
            pipe.send((True, getattr(rank, name)(*arguments)))
        except Exception:  # noqa: BLE001 - told to the test
            pipe.send((False, traceback.format_exc()))


class _Rank:
    def __init__(self, config: WorkerConfig) -> None:
        self._config = config

    def open(self) -> str:
        from worker.engine import Engine

        self._engine = Engine(self._config)
        return self._engine.rendezvous_endpoint

    def join(self, plan: JoinPlan, endpoint: str) -> Joined:
        from dataclasses import replace

        return self._engine.join(replace(plan, rendezvous_endpoint=endpoint), lambda *_: None)

    def run(self, windows: Sequence[Planned], ahead: int) -> list[WindowOutcome]:
        outcomes, unread = [], []
        for pattern, window in windows:
            unread.append(self._engine.run(pattern, window))
            if len(unread) > ahead:
                outcomes.append(unread.pop(0)())
        return outcomes + [read() for read in unread]

    def profile(self, fresh: bool) -> ProfileTable:
        return self._engine.profile(lambda *_: None, fresh=fresh)

    def num_graphs(self) -> int:
        return self._engine.num_graphs

    def close(self) -> None:
        self._engine.abort()
        self._engine.close()
