"""Ranks without torch: they obey windows as a rank's guard does and draw made-up tokens."""

from dataclasses import dataclass, field

from controller.core.admission import ModelLimits
from controller.core.batch_manager import BatchLimits, BatchManager
from controller.core.block_manager import BlockManager
from controller.core.cost_model import EXCHANGES, CostModel
from controller.core.depth import DepthControl
from controller.core.observer import Observer
from controller.core.plan import Forwards, Strategy, Topology
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler, SchedulerLimits
from liger.digest import launch_digest, order_digest
from liger.domain import BatchKind, Fence, Lane, SegmentKind
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
    Window,
    WindowOutcome,
    WindowTimings,
)
from worker.guard import WindowGuard

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
    max_length: int = 64,
    windows_ahead: int = 2,
    strategy: Strategy = Strategy.TENSOR,
    max_depth: int = 4,
    profile: ProfileTable | None = None,
    forwards: Forwards = FORWARDS,
    topology: Topology = Topology(),
) -> Scheduler:
    blocks = BlockManager(num_blocks=num_blocks, block_size=block_size)
    limits = BatchLimits(max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
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
            model=ModelLimits(max_length=max_length, vocabulary_size=1000),
        ),
        planner=Planner(forwards, strategy=strategy, topology=topology, costs=costs),
        batches=BatchManager(limits, blocks, depth),
        depth=depth,
        observer=Observer(forwards, costs),
    )


@dataclass
class _Sequence:
    tokens: list[int] = field(default_factory=list)  # known so far, prompt and drawn
    blocks: list[int] = field(default_factory=list)
    wants_logprobs: bool = False


@dataclass
class _Batch:
    start: BatchStart
    num_left: int  # segments


def drawn_token(tokens: list[int]) -> int:
    """The made-up model: the next token depends on all tokens before it."""
    return (sum((place + 1) * token for place, token in enumerate(tokens)) + 17) % 1000


class SimulatedRank:
    """Checks every window as a real rank does, and that no KV slot is written while another sequence holds it."""

    def __init__(
        self,
        *,
        fence: Fence = FENCE,
        block_size: int = 4,
        num_slots: int = 1,
        forwards: Forwards = FORWARDS,
        topology: Topology = Topology(),
        rank: int = 0,
    ) -> None:
        self.guard = WindowGuard(
            fence=fence, forwards=forwards, num_slots=num_slots, tp_size=topology.tp_size, pp_size=topology.pp_size
        )
        self.max_in_flight = 0
        self._forwards = forwards
        self._rank = rank
        self._in_flight: dict[int, _Batch] = {}
        self.num_tokens_computed = 0
        self.max_running = 0
        self._block_size = block_size
        self._rows: dict[int, _Sequence] = {}
        self._owners: dict[int, int] = {}  # block: row

    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        self.guard.learn(pattern)
        self.guard.admit(window)
        busy = {row for batch in self._in_flight.values() for row in getattr(batch.start.rows, "rows", ())}
        for row in window.sequence_ends:
            assert row not in busy, f"row {row} was freed while a batch in flight advances it"
            for block in self._rows.pop(row).blocks:
                del self._owners[block]
        for start in window.sequence_starts:
            assert start.row not in self._rows, "a row was given twice"
            self._rows[start.row] = _Sequence(wants_logprobs=start.sampling.logprobs is not None)
        self.max_running = max(self.max_running, len(self._rows))
        for start in window.batch_starts:
            assert not busy.intersection(getattr(start.rows, "rows", ())), "a sequence is in two batches in flight"
            self._in_flight[start.batch_id] = _Batch(start, len(self._forwards[start.kind]))
            if not isinstance(start.rows, EncodeRows):  # from its first segment on a batch may write what it was given
                self._append(start.rows.appends.rows, start.rows.appends.counts, start.rows.appends.blocks)
        self.max_in_flight = max(self.max_in_flight, len(self._in_flight))
        batches = tuple(self._run_batch(batch_id, batch.start.rows) for batch_id, batch in self._over(pattern, window))
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=order_digest(launch_digest(pattern.steps, self._rank), window.batch_ids),
            sampled_digest=0,
            timings=WindowTimings(
                started_ns=0,
                ended_ns=10,
                compute_ns=7,
                communication_ns=5,
                exposed_ns=3,
                batch_compute_ns=(7,) * len(window.batch_ids),
                batch_exposed_ns=(3,) * len(window.batch_ids),
            ),
            batches=batches,
        )

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
        drawing, taken = [], 0
        for row, count, start, samples in zip(rows.rows, rows.num_tokens, rows.starts, rows.samples, strict=True):
            sequence = self._rows[row]
            assert start == len(sequence.tokens), "chunks of a prompt follow one another"
            sequence.tokens += rows.token_ids[taken : taken + count]
            taken += count
            self._check_room(sequence, len(sequence.tokens))
            if samples:
                drawing.append(row)
        self.num_tokens_computed += taken
        return self._draw(batch_id, drawing)

    def _decode(self, batch_id: int, rows: DecodeRows) -> BatchOutcome:
        for row, position in zip(rows.rows, rows.positions, strict=True):
            assert position == len(self._rows[row].tokens) - 1, "decode goes on from the last token"
            self._check_room(self._rows[row], position + 1)
        self.num_tokens_computed += len(rows.rows)
        return self._draw(batch_id, list(rows.rows))

    def _draw(self, batch_id: int, rows: list[int]) -> BatchOutcome:
        token_ids, logprobs = [], []
        for row in rows:
            sequence = self._rows[row]
            token_ids.append(drawn_token(sequence.tokens))
            sequence.tokens.append(token_ids[-1])
            if sequence.wants_logprobs:
                logprobs.append(Logprob(token_id=token_ids[-1], logprob=-1.0))
        return BatchOutcome(batch_id=batch_id, token_ids=tuple(token_ids), logprobs=tuple(logprobs))

    def _append(self, rows: tuple[int, ...], counts: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        taken = 0
        for row, count in zip(rows, counts, strict=True):
            for block in blocks[taken : taken + count]:
                assert block not in self._owners, f"block {block} was given to row {row} while another held it"
                self._owners[block] = row
                self._rows[row].blocks.append(block)
            taken += count

    def _check_room(self, sequence: _Sequence, num_tokens: int) -> None:
        assert len(sequence.blocks) * self._block_size >= num_tokens, "a token has no KV slot"
