"""What a batch brings to the ranks: tensors of its tokens, its attention, and what is drawn or read of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from liger.domain import EncodeOutput
from liger.errors import ScheduleRefusedError
from liger.schedule import BatchRows, BlockAppends, DecodeRows, EncodeRows, PrefillRows
from worker.attention.encode import build_encode_attention
from worker.attention.interface import Attend
from worker.attention.paged import build_paged_attention
from worker.kv_cache import KvCache
from worker.sampling.draw import Draw
from worker.sequences import PromptTargets, SequenceTable
from worker.shards.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a batch takes from the sequence table when it starts, however late its first segment on this rank is."""

    rows: BatchRows
    num_tokens: int
    block_tables: tuple[tuple[int, ...], ...] = ()  # of each row, with the blocks appended for this batch
    draws: tuple[Draw, ...] = ()  # one a token to draw
    draw_rows: tuple[int, ...] = ()  # their rows of the sequence table
    draw_chunks: tuple[int, ...] = ()  # prefill: their chunks; forks draw from the same as the row that they copy
    targets: tuple[PromptTargets | None, ...] = ()  # prefill: what each chunk predicts of its prompt, if asked


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens of a prompt whose likelihoods a chunk gives."""

    first: int  # row of the hidden states that predicts the first of them; the others follow
    targets: PromptTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInputs:
    """A batch, ready for its first segment."""

    token_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    token_type_ids: Tensor | None  # [num_tokens] int64
    attend: Attend
    draws: tuple[Draw, ...] = ()  # one a token to draw
    draw_places: Tensor | None = None  # [n] int64: rows of the hidden states that are drawn from; None for all
    draw_copies: Tensor | None = None  # [draws] int64: which of those each draws from; None for one each
    draw_rows: Tensor | None = None  # [draws] int64: rows of the sequence table
    predictions: tuple[Prediction, ...] = ()  # prefill: of prompts whose likelihoods are asked for
    lengths: tuple[int, ...] = ()  # encode: tokens of each input
    outputs: tuple[EncodeOutput, ...] = ()  # encode: what becomes of each input


class InputBuilder:
    """Turns a batch's rows into tensors.

    Args:
        spec: The model.
        table: Running sequences.
        cache: Keys and values; None for models that keep none.
        dtype: Of activations.
        device: Where tensors go.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        table: SequenceTable,
        cache: KvCache | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._spec = spec
        self._table = table
        self._cache = cache
        self._dtype = dtype
        self._device = device

    def build(self, rows: BatchRows) -> BatchInputs:
        """Claim and prepare a batch at once.

        Raises:
            ScheduleRefusedError: See `claim`.
        """
        return self.prepare(self.claim(rows))

    def claim(self, rows: BatchRows) -> Claim:
        """Take what a batch needs of the sequence table; copies and appends its KV blocks there.

        Raises:
            ScheduleRefusedError: It names rows that no sequence holds or blocks that do not exist, copies another block
                than a row's last, or gives a row too few blocks.
        """
        match rows:
            case EncodeRows():
                return Claim(rows=rows, num_tokens=len(rows.token_ids))
            case DecodeRows():
                ends = [position + 1 for position in rows.positions]
                tables = self._claim_blocks(rows, ends)
                draws = tuple(map(self._table.draw, rows.rows, ends))
                return Claim(
                    rows=rows, num_tokens=len(rows.rows), block_tables=tables, draws=draws, draw_rows=rows.rows
                )
            case PrefillRows():
                return self._claim_prefill(rows)

    def _claim_prefill(self, rows: PrefillRows) -> Claim:
        table = self._table
        ends = [start + count for start, count in zip(rows.starts, rows.num_tokens, strict=True)]
        tables = self._claim_blocks(rows, ends)
        drawing: list[tuple[int, int]] = []  # row, chunk
        for chunk, (row, forks, samples) in enumerate(zip(rows.rows, _forks(rows), rows.samples, strict=True)):
            if forks and not samples:
                raise ScheduleRefusedError(f"rows {forks[:8]} fork from a chunk of row {row} that draws nothing")
            table.fork(row, forks)
            drawing += [(own, chunk) for own in (row, *forks) if samples]
        return Claim(
            rows=rows,
            num_tokens=len(rows.token_ids),
            block_tables=tables,
            draws=tuple(table.draw(row, ends[chunk]) for row, chunk in drawing),
            draw_rows=tuple(row for row, _ in drawing),
            draw_chunks=tuple(chunk for _, chunk in drawing),
            targets=tuple(map(table.prompt_targets, rows.rows, rows.starts, rows.num_tokens)),
        )

    def _claim_blocks(self, rows: PrefillRows | DecodeRows, ends: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Bring block tables up to date and return them, one a row, each with room for tokens up to its end."""
        cache, table, appends = self._cache, self._table, rows.appends
        assert cache is not None, "a model without a KV cache has no prefill or decode forward"
        table.check_known(rows.rows)
        outside = [block for block in (*appends.blocks, *appends.copy_targets) if not 0 <= block < cache.num_blocks]
        if outside:
            raise ScheduleRefusedError(f"there are no blocks {outside[:8]}: the cache has {cache.num_blocks}")
        self._copy_blocks(cache, appends)
        table.append(appends)
        tables = tuple(map(tuple, table.block_tables(rows.rows)))
        for row, blocks, end in zip(rows.rows, tables, ends, strict=True):
            if len(blocks) * cache.block_size < end:
                raise ScheduleRefusedError(f"row {row} has {len(blocks)} blocks, which do not hold {end} tokens")
        return tables

    def _copy_blocks(self, cache: KvCache, appends: BlockAppends) -> None:
        rows, sources, targets = appends.copy_rows, appends.copy_sources, appends.copy_targets
        if not rows and not sources and not targets:
            return
        if not len(rows) == len(sources) == len(targets):
            raise ScheduleRefusedError("copied blocks are not as many as their rows")
        if len(set(targets)) < len(targets) or not set(targets).isdisjoint(sources):
            raise ScheduleRefusedError("a block is copied to twice, or is copied and copied to")
        for row, source, target in zip(rows, sources, targets, strict=True):
            self._table.copy_last(row, source, target)
        cache.copy_blocks(sources, targets)

    def prepare(self, claim: Claim) -> BatchInputs:
        """Return a batch's tensors; those of a decode batch hold its sequences' last tokens as they are now."""
        match claim.rows:
            case PrefillRows():
                return self._prefill(claim, claim.rows)
            case DecodeRows():
                return self._decode(claim, claim.rows)
            case EncodeRows():
                return self._encode(claim.rows)

    def new_residual(self, claim: Claim) -> Tensor:
        """Return memory for what another stage sends of a batch, [num_tokens, hidden]."""
        return torch.empty(claim.num_tokens, self._spec.hidden_size, dtype=self._dtype, device=self._device)

    def _prefill(self, claim: Claim, rows: PrefillRows) -> BatchInputs:
        ends = list(accumulate(rows.num_tokens))
        positions = [
            start + offset for start, count in zip(rows.starts, rows.num_tokens, strict=True) for offset in range(count)
        ]
        drawn = list(dict.fromkeys(claim.draw_chunks))
        copies = [drawn.index(chunk) for chunk in claim.draw_chunks]
        return BatchInputs(
            token_ids=self._ids(rows.token_ids),
            positions=self._ids(positions),
            token_type_ids=None,
            attend=self._paged(claim, rows.num_tokens, rows.starts),
            draws=claim.draws,
            draw_places=self._ids([ends[chunk] - 1 for chunk in drawn]),
            draw_copies=self._ids(copies) if len(drawn) < len(copies) else None,
            draw_rows=self._ids(claim.draw_rows),
            predictions=tuple(
                Prediction(end - count, targets)
                for end, count, targets in zip(ends, rows.num_tokens, claim.targets, strict=True)
                if targets is not None and targets.token_ids
            ),
        )

    def _decode(self, claim: Claim, rows: DecodeRows) -> BatchInputs:
        table_rows = self._ids(rows.rows)
        return BatchInputs(
            token_ids=self._table.take_tokens(table_rows),
            positions=self._ids(rows.positions),
            token_type_ids=None,
            attend=self._paged(claim, (1,) * len(rows.rows), rows.positions),
            draws=claim.draws,
            draw_rows=table_rows,
        )

    def _encode(self, rows: EncodeRows) -> BatchInputs:
        attend = build_encode_attention(
            rows.num_tokens,
            causal=self._spec.causal,
            windows=self._spec.sliding_windows,
            dtype=self._dtype,
            device=self._device,
        )
        return BatchInputs(
            token_ids=self._ids(rows.token_ids),
            positions=self._ids([place for count in rows.num_tokens for place in range(count)]),
            token_type_ids=self._ids(rows.token_type_ids) if rows.token_type_ids else None,
            attend=attend,
            lengths=rows.num_tokens,
            outputs=rows.outputs,
        )

    def _paged(self, claim: Claim, num_tokens: Sequence[int], starts: Sequence[int]) -> Attend:
        assert self._cache is not None, "a model without a KV cache has no prefill or decode forward"
        return build_paged_attention(
            self._cache,
            num_tokens=num_tokens,
            starts=starts,
            block_tables=claim.block_tables,
            windows=self._spec.sliding_windows,
        )

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _forks(rows: PrefillRows) -> tuple[tuple[int, ...], ...]:
    counts = rows.fork_counts or (0,) * len(rows.rows)
    if len(counts) != len(rows.rows) or sum(counts) != len(rows.fork_rows):
        raise ScheduleRefusedError("forked rows are not as many as the chunks are to get")
    return rows.forks()
