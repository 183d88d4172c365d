"""What each group does now, as people read it: its KV cache, what waits, what runs side by side, who gets how much."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from liger.cli.account import milliseconds
from liger.cli.tables import new_table
from liger.cluster_state import GroupState
from liger.views import DecodeChoice, TaskShare, WindowMix

_GIB = 1 << 30
_MIB = 1 << 20


def loads(found: Sequence[GroupState]) -> Table:
    """Return a row for each thing that there is to say of each group; without any where nothing was done yet."""
    table = new_table("group", "load", "")
    for group in found:
        for number, (name, text) in enumerate(_lines(group)):
            table.add_row("" if number else escape(group.name), name, text)
    return table


def _lines(group: GroupState) -> list[tuple[str, str]]:
    lines = {
        "KV cache": _kv_cache(group),
        "prefixes": _prefixes(group),
        "waiting": _waiting(group),
        "preempted": _counted(group.num_preemptions, "sequence") if group.num_preemptions else "",
        "windows": _windows(group.window_mixes),
        "decode": _decode(group.decode_choice),
        "tasks": _tasks(group.task_shares),
    }
    return [(name, text) for name, text in lines.items() if text]


def _kv_cache(group: GroupState) -> str:
    if not group.num_blocks:
        return ""
    held = group.num_used_blocks + group.num_cached_blocks
    num_bytes = sum(rank.kv_bytes for rank in group.ranks)
    counts = f"{group.num_used_blocks:,} blocks used, {group.num_cached_blocks:,} cached, of {group.num_blocks:,}"
    sizes = f"{_size(num_bytes * held // group.num_blocks)} of {_size(num_bytes)}"
    return f"{counts} ({sizes} on {_counted(len(group.ranks), 'rank')})"


def _prefixes(group: GroupState) -> str:
    if not group.prefix_query_tokens:
        return ""
    share = group.prefix_hit_tokens / group.prefix_query_tokens
    return f"{share:.0%} found ({group.prefix_hit_tokens:,} of {group.prefix_query_tokens:,} prompt tokens)"


def _waiting(group: GroupState) -> str:
    if not group.num_waiting:
        return ""
    return f"{group.num_waiting:,} sequences and inputs, {_counted(group.num_waiting_tokens, 'token')}"


def _windows(mixes: Iterable[WindowMix]) -> str:
    named = (("+".join(kind.name.lower() for kind in mix.batches) or "none", mix.share) for mix in mixes)
    return ", ".join(f"{name} {share:.0%}" for name, share in named)


def _decode(choice: DecodeChoice | None) -> str:
    """Return in how many batches sequences decode, what that takes, and what the other way would."""
    if choice is None:
        return ""
    chosen = _counted(choice.num_batches, "batch", "batches")
    if choice.merged_ns is None or choice.split_ns is None:
        return chosen
    merged, split = (milliseconds(round(time_ns)) for time_ns in (choice.merged_ns, choice.split_ns))
    return (
        f"{chosen} ({merged}; two would take {split})"
        if choice.num_batches == 1
        else f"{chosen} ({split}; one would take {merged})"
    )


def _tasks(shares: Sequence[TaskShare]) -> str:
    """Return each task's share of the ranks' time beside the one that its weight is worth."""
    weights = sum(each.weight for each in shares)

    def told(each: TaskShare) -> str:
        due = f"weight {each.weight:g} is {each.weight / weights:.0%}" if weights > 0 else f"weight {each.weight:g}"
        waiting = f", {each.num_waiting:,} wait" if each.num_waiting else ""
        return f"{each.task.name.lower()} {each.share:.0%} ({due}{waiting})"

    return "; ".join(map(told, shares))


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB / 10 else f"{num_bytes / _MIB:.1f} MiB"
