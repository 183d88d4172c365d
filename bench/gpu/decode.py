"""Rows (c): sequences that decode, merged or in two halves, and beside a prompt that is prefilled in chunks."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Final

from bench.gpu.figures import Mixed, choose_mixed
from bench.gpu.flow import Track
from bench.gpu.measured import Bench
from bench.gpu.rank_engine import BLOCK_SIZE
from bench.gpu.shapes import VOCABULARY_SIZE
from bench.gpu.timing import Contestant, Ran, full_windows, measure_in_turn, run_flow, settle
from bench.link.figures import percentile
from controller.core.cost_model import Shape
from liger.domain import BatchKind, Sampling
from liger.schedule import BatchRows, BlockAppends, DecodeRows, PrefillRows, SequenceStart

STEPS_PER_CHUNK: Final = (1, 2, 3, 4)
_ROW_S: Final = 15.0  # that a row may take, about
_PREFILL: Final = "prefill"
_DECODE: Final = "decode"


class Decode:
    """One shape's rows.

    Args:
        bench: The shape's.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._flows = bench.flows(bench.exchange)
        self._held: tuple[int, ...] = ()  # rows of the ranks' tables that sequences hold

    def run(self) -> None:
        """Measure every size that there is time for, and record its row."""
        bench = self._bench
        for size in bench.settings.decode_sizes:
            if not bench.meeting.has_time_for(_ROW_S):
                bench.meeting.tell(f"{bench.name} {size} sequences: left out, the time is over")
                continue
            row = bench.meeting.attempt(f"{bench.name} {size} sequences", partial(self._row, size))
            if row is not None:
                bench.meeting.record("decode", row)

    def _row(self, size: int) -> dict[str, object]:
        settings = self._bench.settings
        self._begin(size)
        found = self._measure_alone(size)
        num_groups = self._bench.depth.num_groups(size, settings.context)
        chosen = "halves" if num_groups > 1 else "merged"
        best = min(("merged", "halves"), key=lambda name: found[name])
        choice = self._bench.depth.decode_choice
        row = {
            "shape": self._bench.name,
            "sequences": size,
            "context": settings.context,
            "merged_ms": found["merged"],
            "halves_interleaved_ms": found["halves"],
            "halves_in_turn_ms": found["in turn"],
            "chosen": chosen,
            "best": best,
            "chosen_slower": found[chosen] / found[best] - 1,
            "halves_gain_vs_in_turn": found["in turn"] / found["halves"],
            "predicted_merged_ms": _ms(choice.merged_ns if choice else None),
            "predicted_halves_ms": _ms(choice.split_ns if choice else None),
            "idle_percent": found["idle"],
        }
        return row | self._measure_mixed(size)

    def _measure_alone(self, size: int) -> dict[str, float]:
        """Return the ms of a step of all sequences, by how they run; and the device's idle share, in percent."""
        bench, half = self._bench, size // 2
        context = bench.settings.context
        merged = [self._decodes(_DECODE, range(size))]
        halves = [self._decodes("first", range(half)), self._decodes("second", range(half, size))]
        number = bench.num_batches(Shape(BatchKind.DECODE, size, context), 1)
        contestants = [
            self._flows.contestant("merged", merged, depth=1, num_batches=number),
            self._flows.contestant("halves", halves, depth=2, num_batches=2 * number),
            self._flows.contestant("in turn", halves, depth=1, num_batches=2 * number),
        ]
        runs = measure_in_turn(contestants, bench.clock, bench.meeting, bench.settings.rounds)
        steps = {one.name: settle(runs[one.name], one.depth, bench.meeting) for one in contestants}
        found = {name: one.batch_ns / 1e6 * (1 if name == "merged" else 2) for name, one in steps.items()}
        return found | {"idle": 100 * steps["merged"].idle_share}

    def _measure_mixed(self, size: int) -> dict[str, object]:
        bench, context = self._bench, self._bench.settings.context
        decodes, chunk = Shape(BatchKind.DECODE, size, context), Shape(BatchKind.PREFILL, bench.settings.chunk)
        number = bench.num_batches(decodes, 2)
        natural = round(bench.alone_ns(chunk) / bench.alone_ns(decodes))  # both have as much of the time
        steps = min(max(natural, STEPS_PER_CHUNK[0]), STEPS_PER_CHUNK[-1])
        contestants = [self._mixed("serial", size, steps=steps, depth=1, number=number * steps)]
        contestants += [
            self._mixed(f"interleaved {each}", size, steps=each, depth=2, number=number * each)
            for each in STEPS_PER_CHUNK
        ]
        runs = measure_in_turn(contestants, bench.clock, bench.meeting, bench.settings.rounds)
        serial = self._seen(runs["serial"], steps)
        interleaved = [self._seen(runs[f"interleaved {each}"], each) for each in STEPS_PER_CHUNK]
        best = choose_mixed(serial, interleaved)
        return {
            "chunk": bench.settings.chunk,
            "mixed_serial": asdict(serial),
            "mixed_interleaved": [asdict(one) for one in interleaved],
            "mixed_best": None if best is None else asdict(best),
            "mixed_p90_ratio": None if best is None else best.gap_p90_ms / serial.gap_p90_ms,
        }

    def _mixed(self, name: str, size: int, *, steps: int, depth: int, number: int) -> Contestant:
        prompt = replace(self._prefills(size), beside=_DECODE, every=steps)
        tracks = [self._decodes(_DECODE, range(size)), prompt]
        return self._flows.contestant(name, tracks, depth=depth, num_batches=number)

    def _seen(self, runs: Sequence[Ran], steps: int) -> Mixed:
        """Return what clients see, as medians over rounds, each of the slowest rank: tokens come as windows end."""
        rounds = [self._bench.meeting.slowest(*_gaps(ran)) for ran in runs]
        p90_us, step_us, chunk_us = (median(values) for values in zip(*rounds, strict=True))
        return Mixed(
            steps_per_chunk=steps,
            gap_p90_ms=p90_us / 1e3,
            decode_per_s=1e6 / step_us,
            chunks_per_s=1e6 / chunk_us if chunk_us else 0.0,
        )

    def _begin(self, size: int) -> None:
        """Let so many sequences decode, and one more be prefilled; each row has blocks of its own."""
        settings, meeting = self._bench.settings, self._bench.meeting
        rows = tuple(range(size + 1))
        starts = tuple(
            SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=settings.context) for row in rows
        )
        blocks = -(-self._row_tokens // BLOCK_SIZE)
        appends = BlockAppends(
            rows=rows, counts=(blocks,) * len(rows), blocks=tuple(range(blocks * len(rows)))
        )  # fmt: skip
        first = DecodeRows(rows=rows, positions=(settings.context,) * len(rows), appends=appends)

        def only(_: int) -> BatchRows:
            return first

        track = Track(name=_DECODE, kind=BatchKind.DECODE, rows=only, num_tokens=len(rows))
        laid = self._flows.lay([track], depth=1, num_batches=1, begin=starts, end=self._held)
        self._held = rows
        meeting.meet()
        run_flow(self._bench.exchange, self._bench.clock, laid)

    @property
    def _row_tokens(self) -> int:
        """The tokens that a row has room for: its context and those of a flow, or a chunk of a prompt."""
        settings = self._bench.settings
        return max(settings.context + settings.chunk, settings.chunk) + BLOCK_SIZE

    def _decodes(self, name: str, rows: range) -> Track:
        """Return a track of one step after another; positions begin anew with each flow, and where there is no room."""
        context, chunk = self._bench.settings.context, self._bench.settings.chunk

        def step(number: int) -> BatchRows:
            return DecodeRows(rows=tuple(rows), positions=(context + number % chunk,) * len(rows))

        return Track(name=name, kind=BatchKind.DECODE, rows=step, num_tokens=len(rows))

    def _prefills(self, row: int) -> Track:
        """Return a track of equal chunks, all at the begin of one row's prompt: a chunk does the same work anywhere."""
        size = self._bench.settings.chunk
        ids = tuple(7 * place % VOCABULARY_SIZE for place in range(size))
        rows = PrefillRows(rows=(row,), num_tokens=(size,), starts=(0,), token_ids=ids, samples=(False,))

        def chunk(_: int) -> BatchRows:
            return rows

        return Track(name=_PREFILL, kind=BatchKind.PREFILL, rows=chunk, num_tokens=size)


def _gaps(ran: Ran) -> tuple[float, float, float]:
    """Return the time between a stream's tokens (P90 and mean) and that of a chunk (mean, 0 if unknown), in µs."""
    between = full_windows(ran.laid, 1)
    ends_us = [ran.ends_ns[place] / 1e3 for place in between if _DECODE in ran.laid[place].ended]
    gaps = [late - early for early, late in pairwise(ends_us)]
    chunks_us = [ran.ends_ns[place] / 1e3 for place in between if _PREFILL in ran.laid[place].ended]
    chunk_us = (chunks_us[-1] - chunks_us[0]) / (len(chunks_us) - 1) if len(chunks_us) > 1 else 0.0
    return percentile(gaps, 90), sum(gaps) / len(gaps), chunk_us


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
