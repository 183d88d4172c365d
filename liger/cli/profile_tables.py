"""Profiles as tables."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from rich.markup import escape
from rich.table import Table

from liger.cli.tables import new_table
from liger.pictures.profile import kind_name
from liger.profile import ContentionSample, ExchangeChoice, ProfileTable, SegmentSample
from liger.views import Correction, ProfileView

_NS_PER_MS: Final = 1e6


def of(view: ProfileView) -> Iterator[Table]:
    """Yield the tables of a profile that have rows: segments, exchanges, ways to exchange, contention, corrections."""
    if view.table is not None:
        yield from _durations(view.table)
        if view.table.exchange_choices:
            yield choices(view.table.exchange_choices)
        if view.table.contention:
            yield contention(view.table.contention)
    if view.corrections:
        yield corrections(view.corrections)


def _durations(found: ProfileTable) -> Iterator[Table]:
    segments = [sample for sample in found.segments if sample.batch is not None]
    exchanges = [sample for sample in found.segments if sample.batch is None]
    if segments:
        yield durations("milliseconds of a segment, by tokens", segments)
    if exchanges:
        kib = found.activation_bytes / 1024
        yield durations(f"milliseconds of an exchange, by tokens of {kib:g} KiB", exchanges)


def durations(first: str, samples: Iterable[SegmentSample]) -> Table:
    """Return a row for each kind and context, a column for each number of tokens."""
    rows: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for sample in sorted(samples, key=lambda each: (each.batch or 0, each.segment, each.context)):
        rows[kind_name(sample.batch or 0, sample.segment, sample.context)][sample.num_tokens] = sample.duration_ns
    columns = sorted({num_tokens for row in rows.values() for num_tokens in row})
    shown = new_table(first, *map(str, columns))
    for name, row in rows.items():
        shown.add_row(escape(name), *(_ms(row[tokens]) if tokens in row else "" for tokens in columns))
    return shown


def choices(found: Iterable[ExchangeChoice]) -> Table:
    """Return a row for each way to exchange, alone and beside compute with compute's delay; a star marks the chosen."""
    rows: defaultdict[tuple[bool, str], dict[int, str]] = defaultdict(dict)
    for each in found:
        delay = f" + {_ms(each.delay_ns)}" if each.is_beside_compute else ""
        star = "*" if each.is_chosen else ""
        rows[each.is_beside_compute, each.communicator][each.num_tokens] = f"{_ms(each.duration_ns)}{delay}{star}"
    columns = sorted({num_tokens for row in rows.values() for num_tokens in row})
    shown = new_table("milliseconds by way to exchange (* taken), by tokens", *map(str, columns))
    for is_beside, name in sorted(rows):
        row = rows[is_beside, name]
        where = "beside compute + its delay" if is_beside else "alone"
        shown.add_row(escape(f"{name}, {where}"), *(row.get(tokens, "") for tokens in columns))
    return shown


def contention(samples: Iterable[ContentionSample]) -> Table:
    """Return how many times longer compute and an exchange take beside one another, by the exchange's size."""
    rows: defaultdict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    names = {}
    for sample in samples:
        key = (int(sample.compute), sample.compute_tokens)
        names[key] = f"{sample.compute.name.lower()} of {sample.compute_tokens} tokens"
        rows[key][sample.communication_bytes] = f"{sample.compute_factor:.2f} / {sample.communication_factor:.2f}"
    columns = sorted({size for row in rows.values() for size in row})
    shown = new_table("times longer (compute / exchange) beside", *(f"{size / 1024:g} KiB" for size in columns))
    for key in sorted(rows):
        shown.add_row(names[key], *(rows[key].get(size, "") for size in columns))
    return shown


def corrections(found: Iterable[Correction]) -> Table:
    """Return what was learnt while serving."""
    shown = new_table("corrected while serving", "factor", "observations")
    for each in found:
        name = kind_name(each.batch or 0, each.segment, 0)
        shown.add_row(name, f"{each.factor:.3f}", str(each.num_observations))
    return shown


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / _NS_PER_MS:.3g}" if duration_ns < 1e9 else f"{duration_ns / _NS_PER_MS:,.0f}"
