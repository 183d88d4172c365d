"""What a batch brings to the ranks: tensors of its tokens, its attention, and what is drawn or read of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from liger.domain import EncodeOutput
from liger.schedule import BatchRows, DecodeRows, EncodeRows, PrefillRows
from worker.attention.encode import build_encode_attention
from worker.attention.interface import Attend
from worker.attention.paged import build_paged_attention
from worker.kv_cache import KvCache
from worker.sampling.sampler import Draw
from worker.sequences import SequenceTable
from worker.shards.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a batch takes from the sequence table when it starts, however late its first segment on this rank is."""

    rows: BatchRows
    num_tokens: int
    block_tables: tuple[tuple[int, ...], ...] = ()  # of each row, with the blocks appended for this batch
    draws: tuple[Draw, ...] = ()  # one a token to draw
    draw_rows: tuple[int, ...] = ()  # their rows of the sequence table


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInputs:
    """A batch, ready for its first segment."""

    token_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    token_type_ids: Tensor | None  # [num_tokens] int64
    attend: Attend
    draws: tuple[Draw, ...] = ()  # one a token to draw
    draw_places: Tensor | None = None  # [draws] int64: rows of the hidden states that are drawn from; None for all
    draw_rows: Tensor | None = None  # [draws] int64: rows of the sequence table
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
            ScheduleRefusedError: It names rows that no sequence holds.
        """
        return self.prepare(self.claim(rows))

    def claim(self, rows: BatchRows) -> Claim:
        """Take what a batch needs of the sequence table; appends its KV blocks there.

        Raises:
            ScheduleRefusedError: It names rows that no sequence holds.
        """
        if isinstance(rows, EncodeRows):
            return Claim(rows=rows, num_tokens=len(rows.token_ids))
        table = self._table
        table.check_known(rows.rows)
        table.append(rows.appends)
        if isinstance(rows, DecodeRows):
            drawing = [(row, position + 1) for row, position in zip(rows.rows, rows.positions, strict=True)]
        else:
            chunks = zip(rows.rows, rows.starts, rows.num_tokens, rows.samples, strict=True)
            drawing = [(row, start + count) for row, start, count, samples in chunks if samples]
        return Claim(
            rows=rows,
            num_tokens=len(rows.rows) if isinstance(rows, DecodeRows) else len(rows.token_ids),
            block_tables=tuple(map(tuple, table.block_tables(rows.rows))),
            draws=tuple(table.draw(row, position) for row, position in drawing),
            draw_rows=tuple(row for row, _ in drawing),
        )

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
        ends = accumulate(rows.num_tokens)
        positions = [
            start + offset for start, count in zip(rows.starts, rows.num_tokens, strict=True) for offset in range(count)
        ]
        return BatchInputs(
            token_ids=self._ids(rows.token_ids),
            positions=self._ids(positions),
            token_type_ids=None,
            attend=self._paged(claim, rows.num_tokens, rows.starts),
            draws=claim.draws,
            draw_places=self._ids([end - 1 for end, samples in zip(ends, rows.samples, strict=True) if samples]),
            draw_rows=self._ids(claim.draw_rows),
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
