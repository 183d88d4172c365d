"""What is measured: batches of many sizes, exchanges, and compute beside exchanges. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from liger.domain import BatchKind, SegmentKind

GATHER_ROWS: Final = (1, 16, 64, 256)
ENCODE_LENGTH: Final = 128  # tokens of an encode batch's inputs; the last is shorter
CHUNK_LENGTH: Final = 512  # tokens of a prefill batch's chunks; the last is shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Sizes at which a kind of device is measured, each by growing size; what may come at most is added to them."""

    tokens: tuple[int, ...]
    contexts: tuple[int, ...]  # tokens behind those of a batch
    co_run_tokens: tuple[int, ...]  # of the compute, beside the largest
    co_run_exchanges: tuple[int, ...]  # tokens whose activations are exchanged, beside the most
    choice_tokens: tuple[int, ...]  # of exchanges for which ways to exchange are compared, beside the most


CPU_BUCKETS: Final = Buckets(
    tokens=(1, 4, 16, 64, 128, 256, 512, 1024, 2048),
    contexts=(32, 512),
    co_run_tokens=(32, 256),
    co_run_exchanges=(16, 256),
    choice_tokens=(1, 64, 512),
)
CUDA_BUCKETS: Final = Buckets(
    tokens=(1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    contexts=(32, 512, 2048),
    co_run_tokens=(128, 1024),
    co_run_exchanges=(64, 512, 2048),
    choice_tokens=(1, 16, 128, 512, 2048),
)


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
    buckets: Buckets = CPU_BUCKETS


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
class WaySize:
    """One way to exchange at one size, alone and beside the MLP of a batch of as many tokens."""

    communicator: str  # the way
    shape: Shape  # of the batch

    @property
    def size(self) -> int:
        """Return the tokens whose activations are exchanged."""
        return self.shape.size

    @property
    def family(self) -> str:
        """Return what is common to ways whose times may be compared."""
        return self.communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """All that is measured, what matters most and costs least first."""

    shapes: tuple[Shape, ...]
    ways: tuple[WaySize, ...]
    exchanges: tuple[ExchangeSize, ...]
    co_runs: tuple[CoRun, ...]


def make_plan(bounds: Bounds, ways: Sequence[str] = ()) -> ProfilePlan:
    """Return what to measure within some bounds.

    Args:
        bounds: What may come.
        ways: Names of the ways to exchange, if there are several.
    """
    shapes = [*_encodes(bounds), *_prefills(bounds), *_decodes(bounds)]
    exchanges = _exchanges(bounds) if bounds.num_ranks > 1 else []
    co_runs = _co_runs(bounds) if bounds.num_ranks > 1 else []
    return ProfilePlan(
        shapes=tuple(sorted(shapes, key=lambda shape: shape.size)),  # stable: encode, prefill, decode
        ways=tuple(_ways(bounds, ways)) if bounds.num_ranks > 1 else (),
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
    for num_tokens in _buckets(bounds.buckets.tokens, bounds.max_batch_tokens):
        yield _encode(num_tokens, bounds)


def _encode(num_tokens: int, bounds: Bounds) -> Shape:
    lengths = _cut(num_tokens, min(ENCODE_LENGTH, bounds.max_length))
    return Shape(batch=BatchKind.ENCODE, lengths=lengths, context=0)


def _prefills(bounds: Bounds) -> Iterable[Shape]:
    if BatchKind.PREFILL not in bounds.kinds:
        return
    contexts = [context for context in bounds.buckets.contexts if 2 * context <= bounds.max_length]
    for context in (0, *contexts[-1:]):
        for num_tokens in _buckets(bounds.buckets.tokens, bounds.max_batch_tokens):
            lengths = _cut(num_tokens, min(CHUNK_LENGTH, bounds.max_length - context))
            shape = Shape(batch=BatchKind.PREFILL, lengths=lengths, context=context)
            if _fits(shape, bounds):
                yield shape


def _decodes(bounds: Bounds) -> Iterable[Shape]:
    if BatchKind.DECODE not in bounds.kinds:
        return
    most = min(bounds.num_rows, bounds.max_batch_tokens)
    for context in (context for context in bounds.buckets.contexts if context < bounds.max_length):
        for num_rows in _buckets(bounds.buckets.tokens, most):
            shape = Shape(batch=BatchKind.DECODE, lengths=(1,) * num_rows, context=context)
            if _fits(shape, bounds):
                yield shape


def _ways(bounds: Bounds, names: Sequence[str]) -> Iterable[WaySize]:
    largest = min(bounds.max_batch_tokens, bounds.buckets.tokens[-1])
    for num_tokens in _buckets((*bounds.buckets.choice_tokens, largest), largest):
        for name in names:
            yield WaySize(communicator=name, shape=_encode(num_tokens, bounds))


def _exchanges(bounds: Bounds) -> Iterable[ExchangeSize]:
    for num_tokens in _buckets(bounds.buckets.tokens, bounds.max_batch_tokens):
        yield ExchangeSize(segment=SegmentKind.ALL_REDUCE, size=num_tokens)
    if bounds.draws:
        for num_rows in _buckets(GATHER_ROWS, min(bounds.num_rows, bounds.max_batch_tokens)):
            yield ExchangeSize(segment=SegmentKind.GATHER, size=num_rows)


def _co_runs(bounds: Bounds) -> Iterable[CoRun]:
    buckets = bounds.buckets
    largest = min(bounds.max_batch_tokens, buckets.tokens[-1])
    for num_tokens in _buckets((*buckets.co_run_tokens, largest), largest):
        for exchange_tokens in _buckets((*buckets.co_run_exchanges, largest), largest):
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
