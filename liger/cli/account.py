"""Shows what a call took and who did it, and turns results into JSON."""

import dataclasses
import json
import sys
from enum import IntEnum
from typing import Any

from liger.client import Placement, Timings, Usage

_NS_PER_MS = 1e6
_NS_PER_S = 1e9


def account_line(usage: Usage, timings: Timings, placement: Placement) -> str:
    """Return one line: tokens, what the prefix cache held and saved, times, rate and ranks."""
    parts = [f"{usage.prompt_tokens} tokens in"]
    if usage.completion_tokens:
        parts[0] += f", {usage.completion_tokens} out"
    if usage.cached_tokens:
        saved = f", {milliseconds(timings.saved_prefill_ns)} saved" if timings.saved_prefill_ns > 0 else ""
        parts[0] += f" ({usage.cached_tokens} of {usage.prompt_tokens} cached{saved})"
    stages = {"queue": timings.queue_ns, "prefill": timings.prefill_ns, "decode": timings.decode_ns}
    parts += [f"{name} {milliseconds(spent)}" for name, spent in stages.items() if spent]
    if (rate := decode_rate(usage, timings)) is not None:
        parts[-1] += f" ({rate:.1f} tokens/s)"
    parts += [f"total {milliseconds(timings.total_ns)}", f"ranks {', '.join(placement.worker_ids)}"]
    return " · ".join(parts)


def decode_rate(usage: Usage, timings: Timings) -> float | None:
    """Return tokens a second between the first and the last token, None where there is no such time."""
    if usage.completion_tokens < 2 or timings.decode_ns <= 0:
        return None
    return (usage.completion_tokens - 1) / (timings.decode_ns / _NS_PER_S)


def milliseconds(spent_ns: int) -> str:
    """Return a duration in milliseconds, with a decimal where that is short."""
    value = spent_ns / _NS_PER_MS
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"


def plain(value: Any) -> Any:
    """Return a result as what JSON knows: dataclasses as objects, enums by their names in small letters."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def print_json(value: Any) -> None:
    """Print a result as one line of JSON."""
    print(json.dumps(plain(value), ensure_ascii=False))


def print_account(usage: Usage | None, timings: Timings | None, placement: Placement | None) -> None:
    """Print the account of a call on standard error, if its stream came to its end."""
    if usage and timings and placement:
        print(account_line(usage, timings, placement), file=sys.stderr)
