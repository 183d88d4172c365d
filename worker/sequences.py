"""The sequence table: what belongs to a sequence, by row, whichever batch it is in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from liger.errors import ScheduleRefusedError
from liger.schedule import BlockAppends, SequenceStart
from worker.sampling.sampler import Draw


@dataclass(slots=True)
class _Row:
    start: SequenceStart
    block_table: list[int] = field(default_factory=list)


class SequenceTable:
    """Rows of running sequences.

    Args:
        num_rows: Sequences at once, at most.
        device: Where last tokens are kept; they never leave it between steps.
    """

    def __init__(self, num_rows: int, device: torch.device | str = "cpu") -> None:
        self.last_tokens = torch.zeros(num_rows, dtype=torch.int64, device=device)  # by row
        self._rows: dict[int, _Row] = {}

    def start(self, start: SequenceStart) -> None:
        """Give a sequence its row."""
        self._rows[start.row] = _Row(start)

    def end(self, row: int) -> None:
        """Free a row; its KV blocks are the controller's to give anew."""
        del self._rows[row]

    def append(self, appends: BlockAppends) -> None:
        """Append KV blocks to sequences."""
        taken = 0
        for row, count in zip(appends.rows, appends.counts, strict=True):
            self._rows[row].block_table.extend(appends.blocks[taken : taken + count])
            taken += count

    def block_tables(self, rows: Sequence[int]) -> list[list[int]]:
        """Return the blocks of each row, in the order of its tokens."""
        return [self._rows[row].block_table for row in rows]

    def take_tokens(self, rows: Tensor) -> Tensor:
        """Return the last token of each row, [rows] int64."""
        return self.last_tokens.index_select(0, rows)

    def put_tokens(self, rows: Tensor, token_ids: Tensor) -> None:
        """Keep the last token of each row."""
        self.last_tokens.index_copy_(0, rows, token_ids)

    def draw(self, row: int, position: int) -> Draw:
        """Return how a row's token for a position is drawn."""
        start = self._rows[row].start
        is_early = position - start.num_prompt_tokens < start.min_tokens
        banned = start.stop_token_ids if is_early else ()
        return Draw(sampling=start.sampling, sample=start.sample, position=position, banned=banned)

    def check_known(self, rows: Sequence[int]) -> None:
        """Refuse rows that no sequence holds.

        Raises:
            ScheduleRefusedError: One of them.
        """
        unknown = [row for row in rows if row not in self._rows]
        if unknown:
            raise ScheduleRefusedError(f"no sequence holds rows {unknown[:8]}")
