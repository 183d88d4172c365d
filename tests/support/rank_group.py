"""All ranks of a group as threads of one process, with real exchanges between them."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liger.digest import launch_digest, order_digest
from liger.domain import BatchKind
from liger.schedule import BatchOutcome, Pattern, Segment, Window, WindowOutcome
from tests.support.forwards import FENCE
from worker.config import WorkerConfig
from worker.engine import Engine
from worker.guard import WindowGuard
from worker.rank import Joined, JoinPlan

NUM_SLOTS = 4


class RankGroup:
    """Ranks that have joined, in rank order; each is called on its own thread."""

    def __init__(self, engines: Sequence[Engine], plans: Sequence[JoinPlan], threads: Sequence[ThreadPoolExecutor]):
        self._engines = engines
        self._threads = threads
        self.joined: list[Joined] = self._each(lambda rank: engines[rank].join(plans[rank], lambda *_: None))
        first = plans[0]
        self.guard = WindowGuard(
            fence=FENCE,
            forwards=self.forwards,
            num_slots=NUM_SLOTS,
            tp_size=first.tp_size,
            pp_size=first.pp_size,
        )

    @property
    def forwards(self) -> dict[BatchKind, tuple[Segment, ...]]:
        return dict(self.joined[0].forwards)

    def run(self, pattern: Pattern, window: Window) -> list[WindowOutcome]:
        """Run a window on all ranks; return what each acknowledges."""
        self.guard.learn(pattern)
        self.guard.admit(window)
        outcomes = self._each(lambda rank: self._engines[rank].run(pattern, window)())
        for rank, outcome in enumerate(outcomes):
            expected = launch_digest(pattern.steps, rank)
            assert outcome.launched_digest == order_digest(expected, window.batch_ids)
        return outcomes

    def run_all(self, schedule: Iterable[tuple[Pattern, Window]]) -> dict[int, BatchOutcome]:
        """Run windows; return what each batch gave."""
        found: dict[int, BatchOutcome] = {}
        for pattern, window in schedule:
            for outcome in self.run(pattern, window):
                found.update({batch.batch_id: batch for batch in outcome.batches})
        return found

    def run_apart(self, windows: Sequence[tuple[Pattern, Window]]) -> list[WindowOutcome]:
        """Run one window on all ranks, to each rank its own."""
        return self._each(lambda rank: self._engines[rank].run(*windows[rank])())

    def _each(self, work: Any) -> list[Any]:
        futures = [thread.submit(work, rank) for rank, thread in enumerate(self._threads)]
        return [future.result(timeout=60) for future in futures]


@contextmanager
def running_group(
    folder: Path, *, tp_size: int = 1, stage_layers: Sequence[int] = (3,), **config: Any
) -> Iterator[RankGroup]:
    """Run the ranks of a group: `tp_size` for each stage."""
    pp_size = len(stage_layers)
    world_size = tp_size * pp_size
    own = {"threads": 1, "kv_cache_gib": 0.002, "block_size": 4, "exchange_limit_s": 20.0, **config}
    engines = [
        Engine(WorkerConfig(model_folder=folder, tp_size=tp_size, pp_size=pp_size, **own)) for _ in range(world_size)
    ]
    plans = [
        JoinPlan(
            fence=FENCE,
            tp_rank=rank % tp_size,
            tp_size=tp_size,
            pp_stage=rank // tp_size,
            pp_size=pp_size,
            rendezvous_endpoint=engines[0].rendezvous_endpoint,
            num_slots=NUM_SLOTS,
            max_batch_tokens=64,
            num_rows=16,
            stage_layers=tuple(stage_layers),
        )
        for rank in range(world_size)
    ]
    threads = [ThreadPoolExecutor(1, thread_name_prefix=f"rank-{rank}") for rank in range(world_size)]
    try:
        yield RankGroup(engines, plans, threads)
    finally:
        for engine in engines:
            engine.abort()
        closed = [thread.submit(engine.close) for thread, engine in zip(threads, engines, strict=True)]
        for future, thread in zip(closed, threads, strict=True):
            future.result(timeout=60)
            thread.shutdown()
