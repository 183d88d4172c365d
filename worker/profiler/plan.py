"""What is measured: batches of many sizes, exchanges, and compute beside exchanges. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from liger.domain import BatchKind, SegmentKind

TOKEN_BUCKETS: Final = (1, 4, 16, 64, 128, 256, 512, 1024, 2048)
GATHER_ROWS: Final = (1, 16, 64, 256)
CONTEXTS: Final = (32, 512)  # tokens behind those of a batch
ENCODE_LENGTH: Final = 128  # tokens of an encode batch's inputs; the last is shorter
CHUNK_LENGTH: Final = 512  # tokens of a prefill batch's chunks; the last is shorter
CO_RUN_TOKENS: Final = (32, 256)  # of the compute, beside the largest
CO_RUN_EXCHANGES: Final = (16, 256)  # tokens whose activations are exchanged, beside the most


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a group's batches may be at most; equal on all ranks of a stage."""

    kinds: frozenset[BatchKind]  # that the model runs
    max_length: int  # tokens of a sequence
    max_batch_tokens: int
    num_rows: int  # of the sequence table
    num_blocks: int  # of the rank with the fewest; 0 without a KV cache
    block_size: int
    num_ranks: int  # that exchange
    draws: bool  # whether this stage draws tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A batch that is run to measure its segments."""

    batch: BatchKind
    lengths: tuple[int, ...]  # tokens of each row
    context: int  # tokens behind each row's first

    @property
    def size(self) -> int:
        """Return the tokens of the batch."""
        return sum(self.lengths)

    @property
    def family(self) -> str:
        """Return what is common to shapes whose times may be compared."""
        return f"{self.batch.name} {self.context}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSize:
    """One kind of exchange at one size."""

    segment: SegmentKind  # ALL_REDUCE or GATHER
    size: int  # tokens, of gathers rows that draw

    @property
    def family(self) -> str:
        """Return what is common to exchanges whose times may be compared."""
        return self.segment.name


@dataclass(frozen=True, slots=True, kw_only=True)
class CoRun:
    """One kind of compute beside all-reduces of one size."""

    compute: SegmentKind  # ATTENTION or MLP
    shape: Shape  # whose compute it is
    exchange_tokens: int

    @property
    def size(self) -> int:
        """Return the tokens of both, to which the time is about proportional."""
        return self.shape.size + self.exchange_tokens

    @property
    def family(self) -> str:
        """Return what is common to co-runs whose times may be compared."""
        return self.compute.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """All that is measured, what matters most and costs least first."""

    shapes: tuple[Shape, ...]
    exchanges: tuple[ExchangeSize, ...]
    co_runs: tuple[CoRun, ...]


def make_plan(bounds: Bounds) -> ProfilePlan:
    """Return what to measure within some bounds."""
    shapes = [*_encodes(bounds), *_prefills(bounds), *_decodes(bounds)]
    exchanges = _exchanges(bounds) if bounds.num_ranks > 1 else []
    co_runs = _co_runs(bounds) if bounds.num_ranks > 1 else []
    return ProfilePlan(
        shapes=tuple(sorted(shapes, key=lambda shape: shape.size)),  # stable: encode, prefill, decode
        exchanges=tuple(sorted(exchanges, key=lambda exchange: exchange.size)),
        co_runs=tuple(sorted(co_runs, key=lambda co_run: co_run.size)),
    )


def block_tables(shape: Shape, block_size: int) -> list[range]:
    """Return the KV blocks of each row of a shape, none of them twice."""
    tables, start = [], 0
    for length in shape.lengths:
        stop = start + -(-(shape.context + length) // block_size)
        tables.append(range(start, stop))
        start = stop
    return tables


def _encodes(bounds: Bounds) -> Iterable[Shape]:
    for num_tokens in _buckets(TOKEN_BUCKETS, bounds.max_batch_tokens):
        yield _encode(num_tokens, bounds)


def _encode(num_tokens: int, bounds: Bounds) -> Shape:
    lengths = _cut(num_tokens, min(ENCODE_LENGTH, bounds.max_length))
    return Shape(batch=BatchKind.ENCODE, lengths=lengths, context=0)


def _prefills(bounds: Bounds) -> Iterable[Shape]:
    if BatchKind.PREFILL not in bounds.kinds:
        return
    contexts = [context for context in CONTEXTS if 2 * context <= bounds.max_length]
    for context in (0, *contexts[-1:]):
        for num_tokens in _buckets(TOKEN_BUCKETS, bounds.max_batch_tokens):
            lengths = _cut(num_tokens, min(CHUNK_LENGTH, bounds.max_length - context))
            shape = Shape(batch=BatchKind.PREFILL, lengths=lengths, context=context)
            if _fits(shape, bounds):
                yield shape


def _decodes(bounds: Bounds) -> Iterable[Shape]:
    if BatchKind.DECODE not in bounds.kinds:
        return
    most = min(bounds.num_rows, bounds.max_batch_tokens)
    for context in (context for context in CONTEXTS if context < bounds.max_length):
        for num_rows in _buckets(TOKEN_BUCKETS, most):
            shape = Shape(batch=BatchKind.DECODE, lengths=(1,) * num_rows, context=context)
            if _fits(shape, bounds):
                yield shape


def _exchanges(bounds: Bounds) -> Iterable[ExchangeSize]:
    for num_tokens in _buckets(TOKEN_BUCKETS, bounds.max_batch_tokens):
        yield ExchangeSize(segment=SegmentKind.ALL_REDUCE, size=num_tokens)
    if bounds.draws:
        for num_rows in _buckets(GATHER_ROWS, min(bounds.num_rows, bounds.max_batch_tokens)):
            yield ExchangeSize(segment=SegmentKind.GATHER, size=num_rows)


def _co_runs(bounds: Bounds) -> Iterable[CoRun]:
    largest = min(bounds.max_batch_tokens, TOKEN_BUCKETS[-1])
    for num_tokens in _buckets((*CO_RUN_TOKENS, largest), largest):
        for exchange_tokens in _buckets((*CO_RUN_EXCHANGES, largest), largest):
            for compute in (SegmentKind.MLP, SegmentKind.ATTENTION):
                yield CoRun(compute=compute, shape=_encode(num_tokens, bounds), exchange_tokens=exchange_tokens)


def _buckets(sizes: Iterable[int], most: int) -> list[int]:
    """Return the sizes below the most, and the most itself where sizes go on beyond it."""
    known = sorted(set(sizes))
    return [size for size in known if size < most] + ([most] if most <= known[-1] else [])


def _cut(num_tokens: int, length: int) -> tuple[int, ...]:
    """Return rows of a length that have so many tokens together; the last may be shorter."""
    whole, rest = divmod(num_tokens, length)
    return (length,) * whole + (rest,) * bool(rest)


def _fits(shape: Shape, bounds: Bounds) -> bool:
    num_blocks = block_tables(shape, bounds.block_size)[-1].stop
    return len(shape.lengths) <= bounds.num_rows and num_blocks <= bounds.num_blocks
