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
        """Prepare a batch; appends its KV blocks to the sequence table.

        Raises:
            ScheduleRefusedError: It names rows that no sequence holds.
        """
        match rows:
            case PrefillRows():
                return self._prefill(rows)
            case DecodeRows():
                return self._decode(rows)
            case EncodeRows():
                return self._encode(rows)

    def _prefill(self, rows: PrefillRows) -> BatchInputs:
        attend = self._paged(rows, rows.num_tokens, rows.starts)
        ends = tuple(accumulate(rows.num_tokens))
        drawing = [place for place, samples in enumerate(rows.samples) if samples]
        positions = [
            start + offset for start, count in zip(rows.starts, rows.num_tokens, strict=True) for offset in range(count)
        ]
        return BatchInputs(
            token_ids=self._ids(rows.token_ids),
            positions=self._ids(positions),
            token_type_ids=None,
            attend=attend,
            draws=tuple(
                self._table.draw(rows.rows[place], rows.starts[place] + rows.num_tokens[place]) for place in drawing
            ),
            draw_places=self._ids([ends[place] - 1 for place in drawing]),
            draw_rows=self._ids([rows.rows[place] for place in drawing]),
        )

    def _decode(self, rows: DecodeRows) -> BatchInputs:
        attend = self._paged(rows, (1,) * len(rows.rows), rows.positions)
        table_rows = self._ids(rows.rows)
        return BatchInputs(
            token_ids=self._table.take_tokens(table_rows),
            positions=self._ids(rows.positions),
            token_type_ids=None,
            attend=attend,
            draws=tuple(
                self._table.draw(row, position + 1) for row, position in zip(rows.rows, rows.positions, strict=True)
            ),
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

    def _paged(self, rows: PrefillRows | DecodeRows, num_tokens: Sequence[int], starts: Sequence[int]) -> Attend:
        assert self._cache is not None, "a model without a KV cache has no prefill or decode forward"
        self._table.check_known(rows.rows)
        self._table.append(rows.appends)
        return build_paged_attention(
            self._cache,
            num_tokens=num_tokens,
            starts=starts,
            block_tables=self._table.block_tables(rows.rows),
            windows=self._spec.sliding_windows,
        )

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
