"""Lays tracks (batches that follow one another in one slot) in windows: one after another, or mixed at random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from liger.domain import BatchKind, EncodeOutput, Sampling, SegmentKind
from liger.schedule import (
    BatchRows,
    BatchStart,
    BlockAppends,
    DecodeRows,
    EncodeRows,
    Pattern,
    PrefillRows,
    Segment,
    SequenceStart,
    Step,
    Window,
)
from tests.support.forwards import pattern_of, step_of, window_of

Forwards = Mapping[BatchKind, tuple[Segment, ...]]
Chunk = list[tuple[int, tuple[int, int] | None]]  # launches that lie in one window: place in the forward, piece
BLOCKS_OF_A_ROW = 6


@dataclass
class Track:
    """Batches of one slot, each begun when the one before is over."""

    batches: list[tuple[BatchKind, BatchRows]]
    sequence_starts: tuple[SequenceStart, ...] = ()
    batch_ids: list[int] = field(default_factory=list)  # of those that have begun


def generation(prompts: Mapping[int, Sequence[int]], num_tokens: int, *, chunk: int = 64, **sampling: object) -> Track:
    """Return a track that generates for rows of the sequence table, from their prompts."""
    batches: list[tuple[BatchKind, BatchRows]] = []
    for start in range(0, max(map(len, prompts.values())), chunk):
        chunks = {row: list(prompt[start : start + chunk]) for row, prompt in prompts.items() if start < len(prompt)}
        appends = BlockAppends(
            rows=tuple(chunks),
            counts=(BLOCKS_OF_A_ROW if start == 0 else 0,) * len(chunks),
            blocks=tuple(row * BLOCKS_OF_A_ROW + block for row in chunks for block in range(BLOCKS_OF_A_ROW))
            if start == 0
            else (),
        )
        rows = PrefillRows(
            rows=tuple(chunks),
            num_tokens=tuple(map(len, chunks.values())),
            starts=(start,) * len(chunks),
            token_ids=tuple(token for ids in chunks.values() for token in ids),
            samples=tuple(start + len(ids) == len(prompts[row]) for row, ids in chunks.items()),
            appends=appends,
        )
        batches.append((BatchKind.PREFILL, rows))
    for step in range(num_tokens - 1):
        positions = tuple(len(prompt) + step for prompt in prompts.values())
        batches.append((BatchKind.DECODE, DecodeRows(rows=tuple(prompts), positions=positions)))
    starts = tuple(
        SequenceStart(row=row, sampling=Sampling(**sampling), sample=0, num_prompt_tokens=len(prompt))
        for row, prompt in prompts.items()
    )
    return Track(batches, starts)


def encoding(*inputs: Sequence[int], output: EncodeOutput) -> Track:
    """Return a track of one encode batch."""
    rows = EncodeRows(
        num_tokens=tuple(map(len, inputs)),
        token_ids=tuple(token for ids in inputs for token in ids),
        token_type_ids=(),
        outputs=(output,) * len(inputs),
    )
    return Track([(BatchKind.ENCODE, rows)])


def chunks_of(segments: Sequence[Segment], cuts: Mapping[int, int]) -> list[Chunk]:
    """Return a forward's launches in order. `cuts`: in how many pieces the MLP or exchange of a place comes."""
    chunks: list[Chunk] = []
    place = 0
    while place < len(segments):
        count = cuts.get(place, 0)
        if not count:
            chunks.append([(place, None)])
            place += 1
        elif segments[place].kind is SegmentKind.MLP:
            pieces = [(index, count) for index in range(count)]
            chunks.append([launch for piece in pieces for launch in ((place, piece), (place + 1, piece))])
            place += 2
        else:
            chunks.append([(place, (index, count)) for index in range(count)])
            place += 1
    return chunks


@dataclass
class _Flight:
    track: Track
    slot: int
    start: BatchStart | None = None  # of a batch that begins in the next window it is in
    kind: BatchKind = BatchKind.ENCODE
    chunks: list[Chunk] = field(default_factory=list)  # still to come


class Layout:
    """Lays tracks in windows.

    Args:
        forwards: The segments of each kind of batch.
        tracks: Each gets a slot.
        tp_size: Ranks of a stage.
        cuts: See `chunks_of`; the same for all batches.
    """

    def __init__(
        self, forwards: Forwards, tracks: Sequence[Track], *, tp_size: int = 1, cuts: Mapping[int, int] | None = None
    ) -> None:
        self._forwards = forwards
        self._flights = [_Flight(track, slot) for slot, track in enumerate(tracks)]
        self._tp_size = tp_size
        self._cuts = cuts or {}
        self._num_windows = 0
        self._num_batches = 0

    def serial(self) -> Iterator[tuple[Pattern, Window]]:
        """Give one window a batch, tracks in turn."""
        while waiting := [flight for flight in self._flights if self._begin(flight)]:
            for flight in waiting:
                yield self._window([flight], [flight.chunks])
                flight.chunks = []

    def mixed(self, seed: int, most: int = 6, **window: object) -> Iterator[tuple[Pattern, Window]]:
        """Give windows of up to `most` launches a track, in an order drawn by chance."""
        random = Random(seed)
        while ready := [flight for flight in self._flights if self._begin(flight)]:
            parts = [flight.chunks[: random.randint(0, most)] for flight in ready]
            chosen = [(flight, part) for flight, part in zip(ready, parts, strict=True) if part]
            if chosen:
                yield self._window([flight for flight, _ in chosen], [part for _, part in chosen], random, **window)
            for flight, part in zip(ready, parts, strict=True):
                flight.chunks = flight.chunks[len(part) :]

    def _begin(self, flight: _Flight) -> bool:
        """Begin a track's next batch if none is under way; tell whether one is."""
        track = flight.track
        if not flight.chunks and len(track.batch_ids) < len(track.batches):
            flight.kind, rows = track.batches[len(track.batch_ids)]
            track.batch_ids.append(0)
            flight.start = BatchStart(batch_id=0, kind=flight.kind, slot=flight.slot, rows=rows)
            flight.chunks = chunks_of(self._forwards[flight.kind], self._cuts)
        return bool(flight.chunks)

    def _window(
        self, flights: Sequence[_Flight], parts: Sequence[list[Chunk]], random: Random | None = None, **more: object
    ) -> tuple[Pattern, Window]:
        steps = [self._steps(operand, flights[operand].kind, part) for operand, part in enumerate(parts)]
        order = [operand for operand, own in enumerate(steps) for _ in own]
        if random is not None:
            random.shuffle(order)
        pattern = pattern_of([steps[operand].pop(0) for operand in order], *[flight.kind for flight in flights])
        self._num_windows += 1
        if self._num_windows == 1:
            more["sequence_starts"] = tuple(start for flight in self._flights for start in flight.track.sequence_starts)
        starts = self._starts(flights)
        batch_ids = [flight.track.batch_ids[-1] for flight in flights]
        return pattern, window_of(pattern, self._num_windows, batch_ids, starts, **more)

    def _steps(self, operand: int, kind: BatchKind, chunks: list[Chunk]) -> list[Step]:
        begin, segments = chunks[0][0][0], self._forwards[kind]
        return [
            step_of(segments, place, operand=operand, begin=begin, piece=piece, tp_size=self._tp_size)
            for chunk in chunks
            for place, piece in chunk
        ]

    def _starts(self, flights: Sequence[_Flight]) -> list[BatchStart]:
        starts = []
        for flight in flights:
            if flight.start is not None:
                self._num_batches += 1
                flight.track.batch_ids[-1] = self._num_batches
                starts.append(replace(flight.start, batch_id=self._num_batches))
                flight.start = None
        return starts
