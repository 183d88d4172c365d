"""What a batch brings to the ranks: tensors of its tokens, its attention, and what is drawn or read of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from liger.domain import BatchKind, EncodeOutput
from liger.errors import ScheduleRefusedError
from liger.schedule import BatchRows, BlockAppends, DecodeRows, EncodeRows, PrefillRows
from worker.arenas import Arena
from worker.attention.interface import Attend, AttentionBackend
from worker.devices.base import Device
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
    """A batch, ready for its first segment. Padded are tokens behind those of `num_tokens`, which mean nothing."""

    num_tokens: int
    token_ids: Tensor | None  # [padded] int64; None for the last tokens of `table_rows`
    positions: Tensor  # [padded] int64
    token_type_ids: Tensor | None  # [padded] int64
    attend: Attend
    table_rows: Tensor | None = None  # decode: [padded] int64, rows of the sequence table, padded with row 0
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
        attention: How it attends.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        table: SequenceTable,
        cache: KvCache | None,
        dtype: torch.dtype,
        device: Device,
        attention: AttentionBackend,
    ) -> None:
        self._spec = spec
        self._table = table
        self._cache = cache
        self.dtype = dtype
        self._device = device
        self._attention = attention

    def build(self, rows: BatchRows) -> BatchInputs:
        """Claim and prepare a batch at once.

        Raises:
            ScheduleRefusedError: See `claim`.
        """
        return self.prepare(self.claim(rows), 0)

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
        cache.copy_blocks(*self._device.bring([*sources, *targets], torch.int64).view(2, -1))

    def prepare(self, claim: Claim, slot: int) -> BatchInputs:
        """Return a batch's tensors in the memory of its slot; tokens that ranks drew are looked up later."""
        arena = self._device.arena(slot)
        match claim.rows:
            case PrefillRows():
                return self._prefill(claim, claim.rows, arena, slot)
            case DecodeRows():
                return self._decode(claim, claim.rows, arena, slot)
            case EncodeRows():
                return self._encode(claim.rows, arena, slot)

    def new_residual(self, claim: Claim) -> Tensor:
        """Return memory for what another stage sends of a batch, [num_tokens, hidden]."""
        size = claim.num_tokens, self._spec.hidden_size
        return torch.empty(size, dtype=self.dtype, device=self._device.torch_device)

    def _prefill(self, claim: Claim, rows: PrefillRows, arena: Arena, slot: int) -> BatchInputs:
        ends = list(accumulate(rows.num_tokens))
        positions = [
            start + offset for start, count in zip(rows.starts, rows.num_tokens, strict=True) for offset in range(count)
        ]
        drawn = list(dict.fromkeys(claim.draw_chunks))
        copies = [drawn.index(chunk) for chunk in claim.draw_chunks]
        padded = self._padded(BatchKind.PREFILL, claim.num_tokens)
        return BatchInputs(
            num_tokens=claim.num_tokens,
            token_ids=_staged(arena, "token_ids", rows.token_ids, padded),
            positions=_staged(arena, "positions", positions, padded),
            token_type_ids=None,
            attend=self._paged(claim, slot, num_tokens=rows.num_tokens, starts=rows.starts, padded=padded),
            draws=claim.draws,
            draw_places=_staged(arena, "draw_places", [ends[chunk] - 1 for chunk in drawn]),
            draw_copies=_staged(arena, "draw_copies", copies) if len(drawn) < len(copies) else None,
            draw_rows=_staged(arena, "draw_rows", claim.draw_rows),
            predictions=tuple(
                Prediction(end - count, targets)
                for end, count, targets in zip(ends, rows.num_tokens, claim.targets, strict=True)
                if targets is not None and targets.token_ids
            ),
        )

    def _decode(self, claim: Claim, rows: DecodeRows, arena: Arena, slot: int) -> BatchInputs:
        padded = self._padded(BatchKind.DECODE, claim.num_tokens)
        table_rows = _staged(arena, "table_rows", rows.rows, padded)
        return BatchInputs(
            num_tokens=claim.num_tokens,
            token_ids=None,
            positions=_staged(arena, "positions", rows.positions, padded),
            token_type_ids=None,
            attend=self._paged(claim, slot, num_tokens=(1,) * len(rows.rows), starts=rows.positions, padded=padded),
            table_rows=table_rows,
            draws=claim.draws,
            draw_rows=table_rows[: claim.num_tokens],
        )

    def _encode(self, rows: EncodeRows, arena: Arena, slot: int) -> BatchInputs:
        num_tokens = len(rows.token_ids)
        padded = self._padded(BatchKind.ENCODE, num_tokens)
        positions = [place for count in rows.num_tokens for place in range(count)]
        types = _staged(arena, "token_type_ids", rows.token_type_ids, padded) if rows.token_type_ids else None
        return BatchInputs(
            num_tokens=num_tokens,
            token_ids=_staged(arena, "token_ids", rows.token_ids, padded),
            positions=_staged(arena, "positions", positions, padded),
            token_type_ids=types,
            attend=self._attention.encode(slot, rows.num_tokens, stage=arena.stage, padded_tokens=padded),
            lengths=rows.num_tokens,
            outputs=rows.outputs,
        )

    def _paged(
        self,
        claim: Claim,
        slot: int,
        *,
        num_tokens: Sequence[int],
        starts: Sequence[int],
        padded: int | None,
    ) -> Attend:
        assert self._cache is not None, "a model without a KV cache has no prefill or decode forward"
        return self._attention.paged(
            slot,
            self._cache,
            num_tokens=num_tokens,
            starts=starts,
            block_tables=claim.block_tables,
            stage=self._device.arena(slot).stage,
            padded_tokens=padded,
        )

    def _padded(self, kind: BatchKind, num_tokens: int) -> int | None:
        """Return the size of a batch's bucket; None where batches are not padded."""
        return self._device.bucket(kind, num_tokens) if self._attention.is_capturable else None


def _staged(arena: Arena, name: str, values: Sequence[int], padded: int | None = None) -> Tensor:
    """Return integers on the device, followed by zeros up to the size of a bucket."""
    missing = 0 if padded is None else padded - len(values)
    return arena.stage(name, [*values, *[0] * missing] if missing else values, torch.int64)


def _forks(rows: PrefillRows) -> tuple[tuple[int, ...], ...]:
    counts = rows.fork_counts or (0,) * len(rows.rows)
    if len(counts) != len(rows.rows) or sum(counts) != len(rows.fork_rows):
        raise ScheduleRefusedError("forked rows are not as many as the chunks are to get")
    return rows.forks()
