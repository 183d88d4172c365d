"""The sequence table: what belongs to a sequence, by row, whichever batch it is in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from liger.errors import ScheduleRefusedError
from liger.schedule import BlockAppends, PrefillRows, SequenceStart
from worker.sampling.controls import Controls
from worker.sampling.draw import Draw
from worker.structured.matchers import FollowedOutput, Matchers


@dataclass(slots=True)
class _Row:
    start: SequenceStart
    controls: Controls | None  # None if nothing changes its logits
    output: FollowedOutput | None  # None if it may be anything, or nothing is drawn on this rank
    block_table: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PromptTargets:
    """The tokens of a prompt that a chunk predicts."""

    token_ids: tuple[int, ...]  # the one after each of the chunk's, up to the prompt's last
    num_rivals: int


class SequenceTable:
    """Rows of running sequences.

    Args:
        num_rows: Sequences at once, at most.
        matchers: Follows what outputs must hold to; None where nothing is drawn.
        device: Where last tokens are kept; they never leave it between steps.
    """

    def __init__(self, num_rows: int, matchers: Matchers | None = None, device: torch.device | str = "cpu") -> None:
        self.last_tokens = torch.zeros(num_rows, dtype=torch.int64, device=device)  # by row
        self._matchers = matchers
        self._rows: dict[int, _Row] = {}

    def start(self, start: SequenceStart) -> None:
        """Give a sequence its row.

        Raises:
            ScheduleRefusedError: There is no such row.
        """
        if not 0 <= start.row < len(self.last_tokens):
            raise ScheduleRefusedError(f"there is no row {start.row}: the table has {len(self.last_tokens)}")
        controls = Controls(start) if Controls.needed(start.sampling) else None
        self._rows[start.row] = _Row(start, controls, self._follow(start))

    def end(self, row: int) -> None:
        """Free a row; its KV blocks are the controller's to give anew.

        Raises:
            ScheduleRefusedError: No sequence holds it.
        """
        self.check_known([row])
        del self._rows[row]

    def copy_last(self, row: int, source: int, target: int) -> None:
        """Put a block in the place of a row's last one.

        Raises:
            ScheduleRefusedError: The last one is not `source`, or no sequence holds the row.
        """
        self.check_known([row])
        table = self._rows[row].block_table
        if table[-1:] != [source]:
            raise ScheduleRefusedError(f"block {source} of row {row} is to be copied, but its last is {table[-1:]}")
        table[-1] = target

    def append(self, appends: BlockAppends) -> None:
        """Append KV blocks to sequences.

        Raises:
            ScheduleRefusedError: No sequence holds one of the rows, or the columns do not fit one another.
        """
        self.check_known(appends.rows)
        if len(appends.rows) != len(appends.counts) or sum(appends.counts) != len(appends.blocks):
            raise ScheduleRefusedError("appended blocks are not as many as the rows are to get")
        taken = 0
        for row, count in zip(appends.rows, appends.counts, strict=True):
            self._rows[row].block_table.extend(appends.blocks[taken : taken + count])
            taken += count

    def fork(self, row: int, forks: Sequence[int]) -> None:
        """Let rows begin with a row's blocks, as they are now.

        Raises:
            ScheduleRefusedError: One of them has blocks already, or no sequence holds it.
        """
        self.check_known(forks)
        for fork in forks:
            if self._rows[fork].block_table:
                raise ScheduleRefusedError(f"row {fork} cannot begin as a copy of row {row}: it has blocks")
            self._rows[fork].block_table = list(self._rows[row].block_table)

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
        start, controls = self._rows[row].start, self._rows[row].controls
        is_early = position - start.num_prompt_tokens < start.min_tokens
        return Draw(
            sampling=start.sampling,
            sample=start.sample,
            position=position,
            banned=start.stop_token_ids if is_early else (),
            fallback=min(start.stop_token_ids, default=0),
            controls=controls,
            output=self._rows[row].output,
        )

    def prompt_targets(self, row: int, first: int, count: int) -> PromptTargets | None:
        """Return what a chunk of `count` tokens from place `first` on predicts of a row's prompt; None if unasked.

        Raises:
            ScheduleRefusedError: The prompt is not known.
        """
        start = self._rows[row].start
        if start.prompt_logprobs is None:
            return None
        if len(start.prompt_token_ids) != start.num_prompt_tokens:
            raise ScheduleRefusedError(f"row {row} asks for its prompt's likelihoods, but came without the prompt")
        number = PrefillRows.num_predicted(first, count, start.num_prompt_tokens)
        return PromptTargets(start.prompt_token_ids[first + 1 : first + 1 + number], start.prompt_logprobs)

    def check_known(self, rows: Sequence[int]) -> None:
        """Refuse rows that no sequence holds.

        Raises:
            ScheduleRefusedError: One of them.
        """
        unknown = [row for row in rows if row not in self._rows]
        if unknown:
            raise ScheduleRefusedError(f"no sequence holds rows {unknown[:8]}")

    def _follow(self, start: SequenceStart) -> FollowedOutput | None:
        if start.constraint is None or self._matchers is None:
            return None
        return self._matchers.begin(start.constraint, start.stop_token_ids, start.output_token_ids)
