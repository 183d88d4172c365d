"""Results as tables."""

import math
from collections.abc import Mapping, Sequence
from operator import mul

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from liger.client import Classification, Rank, Score
from liger.cluster_state import GroupPhase, GroupState
from liger.pictures.plan import BatchAccount
from liger.spans import LaneUse

_PHASE_STYLES = {GroupPhase.SERVING: "green", GroupPhase.FORMING: "yellow", GroupPhase.DRAINING: "magenta"}
_LONGEST = 40  # characters of a text that a table shows
_LOAD = ("waiting", "running", "KV blocks")
_NONE = "–"
_MIB = 1 << 20
_NS_PER_MS = 1e6
_PIPED_WIDTH = 500


def console() -> Console:
    """Return a console for results: as wide as the terminal, wide enough for any row where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)


def similarities(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Table:
    """Return the cosine similarity of every two texts."""
    table = new_table("similarity", *(str(number) for number in range(1, len(texts) + 1)))
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), start=1):
        table.add_row(f"{number} {_shown(text)}", *(f"{cosine(vector, other):.3f}" for other in vectors))
    table.caption = f"{len(vectors[0])} dimensions" if vectors else None
    return table


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors, 0 if one has no length."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(map(mul, one, other)) / lengths if lengths else 0.0


def scores(continuations: Sequence[str], found: Sequence[Score]) -> Table:
    """Return the likelihood of each continuation, as a whole and by token."""
    table = new_table("continuation", "log-likelihood", "tokens", "mean a token", "likeliest")
    for text, score in zip(continuations, found, strict=True):
        mean = f"{score.logprob / len(score.tokens):.3f}" if score.tokens else ""
        greedy = "yes" if score.greedy else "no"
        table.add_row(_shown(repr(text)), f"{score.logprob:.3f}", str(len(score.tokens)), mean, greedy)
    return table


def classifications(texts: Sequence[str], labels: Sequence[str], found: Sequence[Classification]) -> Table:
    """Return each text's label and the scores of all labels."""
    table = new_table("text", "label", *map(escape, labels))
    for text, item in zip(texts, found, strict=True):
        table.add_row(_shown(text), escape(item.label), *(f"{value:.3f}" for value in item.scores))
    return table


def ranking(documents: Sequence[str], found: Sequence[Rank]) -> Table:
    """Return the documents, most relevant first."""
    table = new_table("document", "score")
    for rank in found:
        table.add_row(f"{rank.index + 1} {_shown(documents[rank.index])}", f"{rank.score:.4f}")
    return table


def groups(found: Sequence[GroupState]) -> Table:
    """Return the state of every group."""
    table = new_table("group", "model", "state", "ranks", "epoch", "strategy", *_LOAD, "prediction", "hidden", "detail")
    for group in found:
        table.add_row(
            escape(group.name),
            escape(group.model),
            phase(group),
            f"{len(group.ranks)}/{group.world_size}",
            str(group.epoch),
            f"{group.strategy} (depth {group.depth}, {group.num_in_flight} in flight)",
            str(group.num_waiting),
            str(group.num_running),
            f"{group.num_used_blocks}/{group.num_blocks}",
            _NONE if group.prediction_error is None else f"±{group.prediction_error:.1%}",
            _NONE if group.hidden_share is None else f"{group.hidden_share:.0%}",
            escape(group.detail),
        )
    return table


def ranks(found: Sequence[GroupState]) -> Table:
    """Return every rank with what it holds."""
    table = new_table("worker", "group", "rank", "address", "device", "weights", "KV cache")
    for group in found:
        for rank in group.ranks:
            sizes = (f"{size / _MIB:,.0f} MiB" for size in (rank.weight_bytes, rank.kv_bytes))
            own = (rank.worker_id, group.name, str(rank.rank), rank.address, rank.device)
            table.add_row(*map(escape, own), *sizes)
    return table


def planned(batches: Sequence[BatchAccount]) -> Table:
    """Return when each batch of a plan ends, beside running it alone and running all one after another."""
    table = new_table("batch", "kind", "tokens", "ends", "alone", "one after another")
    for batch in batches:
        times = (f"{spent_ms:.2f} ms" for spent_ms in (batch.finish_ms, batch.alone_ms, batch.serial_ms))
        table.add_row(batch.name, batch.kind.name.lower(), str(batch.num_tokens), *times)
    return table


def lane_uses(found: Mapping[int, LaneUse]) -> Table:
    """Return how busy each rank's lanes were, and how much of its hideable communication was hidden."""
    table = new_table("rank", "time", "compute", "communication", "hidden of hideable")
    for rank, use in found.items():
        shares = (
            spent_ns / use.extent_ns if use.extent_ns else 0 for spent_ns in (use.compute_ns, use.communication_ns)
        )
        hidden = f"{use.hidden_ns / use.hideable_ns:.0%}" if use.hideable_ns else _NONE
        table.add_row(str(rank), f"{use.extent_ns / _NS_PER_MS:,.1f} ms", *(f"{share:.0%}" for share in shares), hidden)
    return table


def phase(group: GroupState) -> str:
    """Return a group's phase, coloured, with how far forming is."""
    share = f" {group.progress:.0%}" if group.phase is GroupPhase.FORMING else ""
    style = _PHASE_STYLES.get(group.phase, "red")
    return f"[{style}]{group.phase.name.lower()}{share}[/{style}]"


def new_table(first: str, *others: str) -> Table:
    """Return an empty table in the style of all."""
    table = Table(first, box=None, pad_edge=False, header_style="bold")
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def _shown(text: str) -> str:
    one_line = " ".join(text.split())
    return escape(one_line if len(one_line) <= _LONGEST else one_line[: _LONGEST - 1] + "…")
