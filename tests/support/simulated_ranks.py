"""Ranks without torch: they obey windows as a rank's guard does and draw made-up tokens."""

from dataclasses import dataclass, field

from controller.core.admission import ModelLimits
from controller.core.batch_manager import BatchLimits, BatchManager
from controller.core.block_manager import BlockManager
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler, SchedulerLimits
from liger.digest import order_digest
from liger.domain import BatchKind, Fence, Lane, SegmentKind
from liger.schedule import (
    BatchOutcome,
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
    communicates = kind in {SegmentKind.ALL_REDUCE, SegmentKind.GATHER}
    return Segment(kind=kind, lane=Lane.COMMUNICATION if communicates else Lane.COMPUTE, layer=layer)


BODY = tuple(segment(kind) for kind in (SegmentKind.EMBED, SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE))
TAIL = tuple(segment(kind, 1) for kind in (SegmentKind.HEAD, SegmentKind.GATHER, SegmentKind.SAMPLE))
FORWARDS = {
    BatchKind.ENCODE: BODY + TAIL[:2],
    BatchKind.PREFILL: BODY + TAIL,
    BatchKind.DECODE: BODY + TAIL,
}


def make_scheduler(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_batch_tokens: int = 16,
    max_sequences: int = 8,
    max_requests: int = 100,
    max_length: int = 64,
    windows_ahead: int = 2,
) -> Scheduler:
    blocks = BlockManager(num_blocks=num_blocks, block_size=block_size)
    limits = BatchLimits(max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
    return Scheduler(
        fence=FENCE,
        limits=SchedulerLimits(
            depth=1,
            windows_ahead=windows_ahead,
            max_requests=max_requests,
            model=ModelLimits(max_length=max_length, vocabulary_size=1000),
        ),
        planner=Planner(FORWARDS),
        batches=BatchManager(limits, blocks),
    )


@dataclass
class _Sequence:
    tokens: list[int] = field(default_factory=list)  # known so far, prompt and drawn
    blocks: list[int] = field(default_factory=list)
    wants_logprobs: bool = False


def drawn_token(tokens: list[int]) -> int:
    """The made-up model: the next token depends on all tokens before it."""
    return (sum((place + 1) * token for place, token in enumerate(tokens)) + 17) % 1000


class SimulatedRank:
    """Checks every window as a real rank does, and that no KV slot is written while another sequence holds it."""

    def __init__(self, *, fence: Fence = FENCE, block_size: int = 4, num_slots: int = 1) -> None:
        self.guard = WindowGuard(fence=fence, forwards=FORWARDS, num_slots=num_slots)
        self.num_tokens_computed = 0
        self.max_running = 0
        self._block_size = block_size
        self._rows: dict[int, _Sequence] = {}
        self._owners: dict[int, int] = {}  # block: row

    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        self.guard.learn(pattern)
        self.guard.admit(window)
        for row in window.sequence_ends:
            for block in self._rows.pop(row).blocks:
                del self._owners[block]
        for start in window.sequence_starts:
            assert start.row not in self._rows, "a row was given twice"
            self._rows[start.row] = _Sequence(wants_logprobs=start.sampling.logprobs is not None)
        self.max_running = max(self.max_running, len(self._rows))
        batches = tuple(self._run_batch(start.batch_id, start.rows) for start in window.batch_starts)
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=order_digest(pattern.steps, window.batch_ids),
            sampled_digest=0,
            timings=WindowTimings(started_ns=0, ended_ns=10, compute_ns=7, exposed_ns=3),
            batches=batches,
        )

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
        self._append(rows.appends.rows, rows.appends.counts, rows.appends.blocks)
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
        self._append(rows.appends.rows, rows.appends.counts, rows.appends.blocks)
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
