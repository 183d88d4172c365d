"""Ranks without torch: they obey windows as a rank's guard does and draw made-up tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controller.core.admission import ModelLimits, SchedulerLimits
from controller.core.batch_manager import BatchManager
from controller.core.block_manager import BlockManager
from controller.core.cost_model import EXCHANGES, CostModel
from controller.core.depth import DepthControl
from controller.core.limits import BatchLimits
from controller.core.observer import Observer
from controller.core.plan import Forwards, Strategy, Topology
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler
from liger.digest import launch_digest, order_digest
from liger.domain import BatchKind, Fence, Lane, SegmentKind, Task
from liger.profile import ContentionSample, ProfileTable, SegmentSample
from liger.schedule import (
    BatchOutcome,
    BatchStart,
    DecodeRows,
    EncodeRows,
    ItemResult,
    Logprob,
    Pattern,
    PrefillRows,
    Segment,
    SequenceStart,
    Window,
    WindowOutcome,
    WindowTimings,
)
from worker.guard import WindowGuard
from worker.kv_hazards import KvHazards

FENCE = Fence(leader_term=1, group="g", epoch=1)


def segment(kind: SegmentKind, layer: int = 0) -> Segment:
    return Segment(kind=kind, lane=Lane.COMMUNICATION if kind in EXCHANGES else Lane.COMPUTE, layer=layer)


def made_forwards(num_layers: int) -> Forwards:
    """Return the forwards of a made-up language model."""
    layer = (SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE, SegmentKind.MLP, SegmentKind.ALL_REDUCE)
    body = [segment(SegmentKind.EMBED), *(segment(kind, number) for number in range(num_layers) for kind in layer)]
    tail = [segment(kind, num_layers) for kind in (SegmentKind.HEAD, SegmentKind.GATHER, SegmentKind.SAMPLE)]
    drawing = (*body, *tail)
    return {BatchKind.ENCODE: (*body, *tail[:2]), BatchKind.PREFILL: drawing, BatchKind.DECODE: drawing}


FORWARDS = made_forwards(2)


def made_profile(
    *,
    compute_ns: int = 20_000,
    exchange_ns: int = 15_000,
    floor_ns: int = 400_000,
    contention: float = 1.0,
    max_tokens: int = 4096,
) -> ProfileTable:
    """Return a profile in which durations grow with tokens: so much a token, and a floor."""
    compute = {SegmentKind.EMBED: 0.1, SegmentKind.ATTENTION: 1.0, SegmentKind.MLP: 2.0, SegmentKind.HEAD: 0.1}
    compute[SegmentKind.SAMPLE] = 0.1
    samples = [
        SegmentSample(
            batch=batch,
            segment=kind,
            num_tokens=tokens,
            context=0,
            duration_ns=round(share * (floor_ns + compute_ns * tokens)),
        )
        for batch in BatchKind
        for kind, share in compute.items()
        for tokens in (1, max_tokens)
    ]
    samples += [
        SegmentSample(
            batch=None, segment=kind, num_tokens=tokens, context=0, duration_ns=floor_ns + exchange_ns * tokens
        )
        for kind in (SegmentKind.ALL_REDUCE, SegmentKind.GATHER)
        for tokens in (1, max_tokens)
    ]
    beside = ContentionSample(
        compute=SegmentKind.MLP,
        compute_tokens=64,
        communication_bytes=4096,
        compute_factor=contention,
        communication_factor=contention,
    )
    return ProfileTable(key="made up", activation_bytes=64, segments=tuple(samples), contention=(beside,))


def make_scheduler(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_batch_tokens: int = 16,
    max_sequences: int = 8,
    max_requests: int = 100,
    max_waiting_tokens: int = 10**6,
    max_unread_tokens: int = 512,
    max_beside_tokens: int = 512,
    weights: Mapping[Task, float] = dict.fromkeys(Task, 1.0),
    max_length: int = 64,
    windows_ahead: int = 2,
    strategy: Strategy = Strategy.TENSOR,
    max_depth: int = 4,
    profile: ProfileTable | None = None,
    forwards: Forwards = FORWARDS,
    topology: Topology = Topology(),
) -> Scheduler:
    blocks = BlockManager(num_blocks=num_blocks, block_size=block_size)
    limits = BatchLimits(
        max_batch_tokens=max_batch_tokens,
        max_sequences=max_sequences,
        max_unread_tokens=max_unread_tokens,
        max_beside_tokens=max_beside_tokens,
        weights=weights,
    )
    costs = CostModel(profile or made_profile()) if strategy is Strategy.INTERLEAVED else None
    depth = DepthControl(
        strategy=strategy,
        num_stages=topology.pp_size,
        max_depth={Strategy.TENSOR: 1, Strategy.PIPELINE: topology.pp_size}.get(strategy, max_depth),
        forwards=forwards,
        costs=costs,
    )
    return Scheduler(
        fence=FENCE,
        limits=SchedulerLimits(
            windows_ahead=windows_ahead,
            max_requests=max_requests,
            max_waiting_tokens=max_waiting_tokens,
            model=ModelLimits(max_length=max_length, vocabulary_size=1000),
        ),
        planner=Planner(forwards, strategy=strategy, topology=topology, costs=costs),
        batches=BatchManager(limits, blocks, depth),
        depth=depth,
        observer=Observer(forwards, costs),
    )


@dataclass
class _Sequence:
    start: SequenceStart
    blocks: list[int] = field(default_factory=list)
    last_token: int | None = None  # drawn, its keys and values not yet written


@dataclass
class _Batch:
    start: BatchStart
    num_left: int  # segments


def drawn_token(tokens: list[int]) -> int:
    """The made-up model: the next token depends on all tokens before it."""
    return (sum((place + 1) * token for place, token in enumerate(tokens)) + 17) % 1000


class SimulatedRank:
    """Checks every window as a real rank does, and keeps tokens where a real one keeps their keys and values.

    What is drawn depends on the tokens that the sequence's blocks hold, so a block that is wrongly shared, freed or
    written gives other tokens; `KvHazards` refuses windows that could do so even if they do not here.
    """

    def __init__(
        self,
        *,
        fence: Fence = FENCE,
        block_size: int = 4,
        num_slots: int = 1,
        forwards: Forwards = FORWARDS,
        topology: Topology = Topology(),
        rank: int = 0,
        busy_ns: Callable[[BatchKind, int], int] = lambda kind, num_tokens: 10,
    ) -> None:
        self.guard = WindowGuard(
            fence=fence,
            forwards=forwards,
            num_slots=num_slots,
            tp_size=topology.tp_size,
            pp_size=topology.pp_size,
            hazards=KvHazards(block_size),
        )
        self.max_in_flight = 0
        self.num_tokens_computed = 0
        self.num_copies = 0
        self.max_running = 0
        self._forwards = forwards
        self._rank = rank
        self._busy_ns = busy_ns
        self._in_flight: dict[int, _Batch] = {}
        self._block_size = block_size
        self._rows: dict[int, _Sequence] = {}
        self._kv: dict[int, list[int | None]] = {}  # by block

    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        self.guard.learn(pattern)
        self.guard.admit(window)
        self._begin(window)
        times = tuple(self._time(pattern, window, operand) for operand in range(len(window.batch_ids)))
        batches = tuple(self._run_batch(batch_id, batch.start.rows) for batch_id, batch in self._over(pattern, window))
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=order_digest(launch_digest(pattern.steps, self._rank), window.batch_ids),
            sampled_digest=0,
            timings=WindowTimings(
                started_ns=0,
                ended_ns=sum(times),
                compute_ns=sum(times),
                communication_ns=5,
                exposed_ns=3,
                batch_compute_ns=times,
                batch_exposed_ns=(0,) * len(window.batch_ids),
            ),
            batches=batches,
        )

    def _begin(self, window: Window) -> None:
        for row in window.sequence_ends:
            del self._rows[row]
        for start in window.sequence_starts:
            self._rows[start.row] = _Sequence(start)
        self.max_running = max(self.max_running, len(self._rows))
        for start in window.batch_starts:
            self._in_flight[start.batch_id] = _Batch(start, len(self._forwards[start.kind]))
            if not isinstance(start.rows, EncodeRows):
                self._append(start)
        self.max_in_flight = max(self.max_in_flight, len(self._in_flight))

    def _time(self, pattern: Pattern, window: Window, operand: int) -> int:
        start = self._in_flight[window.batch_ids[operand]].start
        num_segments = len({step.segment for step in pattern.steps if step.operand == operand})
        num_tokens = len(getattr(start.rows, "token_ids", ())) or len(start.rows.rows)
        return round(self._busy_ns(start.kind, num_tokens) * num_segments / len(self._forwards[start.kind]))

    def _append(self, start: BatchStart) -> None:
        assert not isinstance(start.rows, EncodeRows)
        appends = start.rows.appends
        for row, source, target in zip(appends.copy_rows, appends.copy_sources, appends.copy_targets, strict=True):
            self._rows[row].blocks[-1], self._kv[target] = target, list(self._kv[source])
            self.num_copies += 1
        taken = 0
        for row, count in zip(appends.rows, appends.counts, strict=True):
            self._rows[row].blocks += appends.blocks[taken : taken + count]
            taken += count
        if isinstance(start.rows, PrefillRows):
            for row, forks in zip(start.rows.rows, start.rows.forks(), strict=True):
                for fork in forks:
                    self._rows[fork].blocks = list(self._rows[row].blocks)

    def _over(self, pattern: Pattern, window: Window) -> list[tuple[int, "_Batch"]]:
        """Advance the batches of a window, and take those that are over out, in the order in which they end."""
        over = []
        for step in pattern.steps:
            batch_id = window.batch_ids[step.operand]
            if step.piece is None or step.piece.index + 1 == step.piece.count:
                batch = self._in_flight[batch_id]
                batch.num_left -= 1
                if batch.num_left == 0:
                    over.append((batch_id, self._in_flight.pop(batch_id)))
        return over

    def _run_batch(self, batch_id: int, rows: PrefillRows | DecodeRows | EncodeRows) -> BatchOutcome:
        match rows:
            case EncodeRows():
                self.num_tokens_computed += len(rows.token_ids)
                items, taken = [], 0
                for count in rows.num_tokens:
                    items.append(ItemResult(values=tuple(map(float, rows.token_ids[taken : taken + count]))))
                    taken += count
                return BatchOutcome(batch_id=batch_id, items=tuple(items))
            case PrefillRows():
                return self._prefill(batch_id, rows)
            case DecodeRows():
                return self._decode(batch_id, rows)

    def _prefill(self, batch_id: int, rows: PrefillRows) -> BatchOutcome:
        drawing, prompts, taken = [], [], 0
        columns = zip(rows.rows, rows.num_tokens, rows.starts, rows.samples, rows.forks(), strict=True)
        for row, count, begin, samples, forks in columns:
            chunk = rows.token_ids[taken : taken + count]
            taken += count
            for place, token in enumerate(chunk, begin):
                self._write(row, place, token)
            self._read(row, begin + count)
            start = self._rows[row].start
            if start.prompt_logprobs is not None:
                num_predicted = rows.num_predicted(begin, count, start.num_prompt_tokens)
                prompts += start.prompt_token_ids[begin + 1 : begin + 1 + num_predicted]
            if samples:
                drawing += [(row, row, begin + count), *((row, fork, begin + count) for fork in forks)]
        self.num_tokens_computed += taken
        return self._draw(batch_id, drawing, prompts)

    def _decode(self, batch_id: int, rows: DecodeRows) -> BatchOutcome:
        for row, position in zip(rows.rows, rows.positions, strict=True):
            last = self._rows[row].last_token
            assert last is not None, "decode goes on from a token that was drawn"
            self._write(row, position, last)
        self.num_tokens_computed += len(rows.rows)
        drawing = [(row, row, position + 1) for row, position in zip(rows.rows, rows.positions, strict=True)]
        return self._draw(batch_id, drawing, [])

    def _draw(self, batch_id: int, drawing: list[tuple[int, int, int]], prompts: list[int]) -> BatchOutcome:
        """Draw for (row that was computed, row that gets the token, tokens before it)."""
        token_ids, logprobs = [], []
        for computed, row, num_tokens in drawing:
            sequence = self._rows[row]
            token = drawn_token(self._read(computed, num_tokens))
            sequence.last_token = token
            token_ids.append(token)
            if sequence.start.sampling.logprobs is not None:
                logprobs.append(Logprob(token_id=token, logprob=-1.0))
        return BatchOutcome(
            batch_id=batch_id,
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            prompt_logprobs=tuple(Logprob(token_id=token, logprob=-2.0) for token in prompts),
        )

    def _write(self, row: int, place: int, token: int) -> None:
        block = self._rows[row].blocks[place // self._block_size]
        self._kv.setdefault(block, [None] * self._block_size)[place % self._block_size] = token

    def _read(self, row: int, num_tokens: int) -> list[int]:
        slots = [token for block in self._rows[row].blocks for token in self._kv.get(block, [None] * self._block_size)]
        tokens = [token for token in slots[:num_tokens] if token is not None]
        assert len(tokens) == num_tokens, "a sequence reads what was never written"
        return tokens
