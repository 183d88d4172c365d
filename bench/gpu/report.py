"""Shows what was measured: a line a row as they come, tables last, the bound beside every figure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.gpu.results import Results
from bench.gpu.testbed import Testbed

_PLANE: Final = (
    ("compute", "compute_ms", 3),
    ("NCCL", "serial_nccl_ms", 3),
    ("same", "serial_same_exchange_ms", 3),
    ("best", "serial_best_ms", 3),
    ("(whose)", "serial_best", 0),
    ("interl.", "interleaved_ms", 3),
    ("depth", "interleaved_depth", 0),
    ("PP", "pipeline_ms", 3),
    ("copies", "independent_ms", 3),
    ("vs NCCL", "gain_vs_nccl", 2),
    ("bound", "bound_vs_nccl", 2),
    ("vs best", "gain_vs_best_serial", 2),
    ("vs same", "gain_vs_same_exchange", 2),
    ("bound", "bound", 2),
    ("chosen", "chosen_depth", 0),
    ("vs best", "chosen_gain_vs_best_serial", 2),
    ("hidden", "hidden_fraction", 2),
    ("idle %", "idle_percent", 1),
    ("error", "max_rel_error", 4),
)
_DECODE: Final = (
    ("merged", "merged_ms", 3),
    ("halves", "halves_interleaved_ms", 3),
    ("in turn", "halves_in_turn_ms", 3),
    ("chosen", "chosen", 0),
    ("slower", "chosen_slower", 3),
    ("idle %", "idle_percent", 1),
    ("P90 mixed/serial", "mixed_p90_ratio", 2),
)
_SERVICE: Final = (
    ("load", "load", 0),
    ("strategy", "strategy", 0),
    ("point", "label", 0),
    ("rate", "rate", 1),
    ("tokens/s", "tokens_per_s", 0),
    ("P50 ms", "p50_ms", 1),
    ("P90 ms", "p90_ms", 1),
    ("failed", "num_failed", 0),
    ("of plane", "share_of_data_plane", 3),
)


def describe_row(kind: str, row: Mapping[str, Any]) -> str:
    """Return one row in a line; empty for those that come in hundreds."""
    if kind in {"profile", "device"}:
        return ""
    columns = {"data_plane": _PLANE, "decode": _DECODE, "service": _SERVICE}[kind]
    shown = (f"{title} {_cell(row.get(key), digits)}" for title, key, digits in columns if row.get(key) is not None)
    return f"{kind} {_head(row)}: {', '.join(shown)}"


def tables(results: Results, testbed: Testbed) -> str:
    """Return all rows as tables, with what they were measured on."""
    parts = [_testbed(testbed)]
    for kind, columns, title in (
        ("data_plane", _PLANE, "ms a batch in steady state; bound: what a gain can be at most"),
        ("decode", _DECODE, "ms a step of all sequences; slower: the cost model's choice against the better one"),
        ("service", _SERVICE, "the whole service"),
    ):
        if results.rows[kind]:
            parts.append(f"{kind}: {title}\n{_table(results.rows[kind], columns)}")
    parts += [f"{shape}: {_summary(found)}" for shape, found in results.summary().items() if isinstance(found, dict)]
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, int]]) -> str:
    cells = [["", *(title for title, _, _ in columns)]]
    cells += [[_head(row), *(_cell(row.get(key), digits) for _, key, digits in columns)] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _head(row: Mapping[str, Any]) -> str:
    size = row.get("tokens", row.get("sequences", ""))
    return f"{row.get('shape', '')} {size}".strip()


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, int | float) else str(value)


def _testbed(testbed: Testbed) -> str:
    shared = ""
    if testbed.is_partitioned:
        shared = ", MPS partitions"
    elif testbed.is_time_sliced:
        shared = ", TIME-SLICED: every exchange costs milliseconds, quote none of this"
    note = f"; {testbed.note}" if testbed.note else ""
    return f"{testbed.name}; link {testbed.link}{shared}{note}"


def _summary(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(value, 3)}" for name, value in found.items() if value is not None)
