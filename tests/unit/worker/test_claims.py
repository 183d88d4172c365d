"""What a batch takes of the sequence table and the cache when it starts, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from liger.domain import Sampling
from liger.errors import ScheduleRefusedError
from liger.schedule import BlockAppends, DecodeRows, PrefillRows, SequenceStart
from worker.attention.interface import AttentionShape
from worker.attention.reference import ReferenceAttention
from worker.devices.cpu import CpuDevice
from worker.inputs import InputBuilder
from worker.kv_cache import KvCache
from worker.sequences import SequenceTable

TABLE = BlockAppends(rows=(0,), counts=(2,), blocks=(3, 5))
PREFILL = PrefillRows(
    rows=(0,), num_tokens=(6,), starts=(0,), token_ids=(1, 2, 3, 4, 5, 6), samples=(True,), appends=TABLE
)


def start(row: int, **changes: object) -> SequenceStart:
    return replace(SequenceStart(row=row, sampling=Sampling(seed=9), sample=row, num_prompt_tokens=6), **changes)


class Rank:
    """Four rows of the table, all held, and eight blocks of two layers."""

    def __init__(self, **changes: object) -> None:
        self.table = SequenceTable(4)
        for row in range(4):
            self.table.start(start(row, **changes))
        self.cache = KvCache.allocate(layers=range(2), num_blocks=8, block_size=4, num_kv_heads=1, head_dim=2)
        for place, tensor in enumerate((*self.cache.keys, *self.cache.values)):
            tensor.copy_(torch.arange(8).view(8, 1, 1, 1) * 10 + place)
        spec = SimpleNamespace(sliding_windows=[None, None])
        shape = AttentionShape(
            num_heads=1,
            num_kv_heads=1,
            head_dim=2,
            windows=spec.sliding_windows,
            causal=True,
            max_length=32,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.inputs = InputBuilder(
            spec=spec,
            table=self.table,
            cache=self.cache,
            dtype=torch.float32,
            device=CpuDevice(1),
            attention=ReferenceAttention(shape),
        )


def decode(*rows: int, appends: BlockAppends = BlockAppends()) -> DecodeRows:
    return DecodeRows(rows=rows, positions=(6,) * len(rows), appends=appends)


def copies(*changes: tuple[int, int, int]) -> BlockAppends:
    rows, sources, targets = zip(*changes, strict=True)
    return BlockAppends(copy_rows=rows, copy_sources=sources, copy_targets=targets)


def test_forks_take_the_blocks_of_their_chunk_and_draw_with_it() -> None:
    rank = Rank()
    claim = rank.inputs.claim(replace(PREFILL, fork_counts=(2,), fork_rows=(3, 1)))
    assert claim.draw_rows == (0, 3, 1)
    assert [draw.sample for draw in claim.draws] == [0, 3, 1]
    assert {draw.position for draw in claim.draws} == {6}
    assert rank.table.block_tables((0, 1, 2, 3)) == [[3, 5], [3, 5], [], [3, 5]]
    inputs = rank.inputs.build(DecodeRows(rows=(3,), positions=(6,)))
    assert inputs.draw_copies is None


def test_the_logits_of_a_chunk_are_made_once_for_all_its_forks() -> None:
    rank = Rank()
    rows = PrefillRows(
        rows=(0, 2, 1),
        num_tokens=(2, 1, 3),
        starts=(0, 0, 0),
        token_ids=(1,) * 6,
        samples=(True, False, True),
        appends=BlockAppends(rows=(0, 2, 1), counts=(1, 1, 1), blocks=(0, 1, 2)),
        fork_counts=(0, 0, 1),
        fork_rows=(3,),
    )
    inputs = rank.inputs.build(rows)
    assert inputs.draw_places is not None
    assert inputs.draw_copies is not None
    assert inputs.draw_rows is not None
    assert inputs.draw_places.tolist() == [1, 5]
    assert inputs.draw_copies.tolist() == [0, 1, 1]
    assert inputs.draw_rows.tolist() == [0, 1, 3]


def test_a_copied_block_takes_its_place_with_all_layers_keys_and_values() -> None:
    rank = Rank()
    rank.inputs.claim(replace(PREFILL, fork_counts=(2,), fork_rows=(1, 2)))
    more = BlockAppends(rows=(1,), counts=(1,), blocks=(6,))
    claim = rank.inputs.claim(
        decode(0, 1, appends=replace(more, copy_rows=(1, 2), copy_sources=(5, 5), copy_targets=(0, 7)))
    )
    assert claim.block_tables == ((3, 5), (3, 0, 6))
    assert rank.table.block_tables((2,)) == [[3, 7]]
    for tensor in (*rank.cache.keys, *rank.cache.values):
        assert torch.equal(tensor[0], tensor[5])
        assert torch.equal(tensor[7], tensor[5])
        assert not torch.equal(tensor[6], tensor[5])


def test_what_a_batch_claimed_does_not_change_with_later_batches() -> None:
    rank = Rank()
    rank.inputs.claim(PREFILL)
    claim = rank.inputs.claim(decode(0))
    rank.inputs.claim(decode(0, appends=copies((0, 5, 1))))
    assert claim.block_tables == ((3, 5),)


def test_prompts_likelihoods_need_the_prompt() -> None:
    with pytest.raises(ScheduleRefusedError, match="came without the prompt"):
        Rank(prompt_logprobs=1).inputs.claim(PREFILL)


@pytest.mark.parametrize(
    ("first", "count", "expected"), [(0, 4, (2, 3, 4, 5)), (4, 2, (6,)), (5, 1, ()), (6, 2, ())], ids=str
)
def test_a_chunk_predicts_the_tokens_after_its_own_up_to_the_prompts_last(
    first: int, count: int, expected: tuple[int, ...]
) -> None:
    table = SequenceTable(1)
    table.start(start(0, prompt_token_ids=(1, 2, 3, 4, 5, 6), prompt_logprobs=2))
    targets = table.prompt_targets(0, first, count)
    assert targets is not None
    assert (targets.token_ids, targets.num_rivals) == (expected, 2)


REFUSED = {
    "no sequence holds rows": [PREFILL, decode(0, appends=BlockAppends(rows=(9,), counts=(1,), blocks=(0,)))],
    "no sequence holds rows .8.": [decode(8)],
    "no sequence holds rows .7.": [replace(PREFILL, fork_counts=(1,), fork_rows=(7,))],
    "no sequence holds rows .6.": [PREFILL, decode(0, appends=copies((6, 5, 1)))],
    "there are no blocks .8.": [PREFILL, decode(0, appends=BlockAppends(rows=(0,), counts=(1,), blocks=(8,)))],
    "there are no blocks .9.": [PREFILL, decode(0, appends=copies((0, 5, 9)))],
    "its last is .5.": [PREFILL, decode(0, appends=copies((0, 3, 1)))],
    "its last is ..": [decode(1, appends=copies((1, 3, 1)))],
    "copied and copied to": [PREFILL, decode(0, appends=copies((0, 5, 5)))],
    "copied to twice": [
        replace(PREFILL, fork_counts=(1,), fork_rows=(1,)),
        decode(0, appends=copies((0, 5, 1), (1, 5, 1))),
    ],
    "not as many as their rows": [PREFILL, decode(0, appends=BlockAppends(copy_rows=(0,), copy_sources=(5,)))],
    "not as many as the rows": [PREFILL, decode(0, appends=BlockAppends(rows=(0,), counts=(2,), blocks=(1,)))],
    "which do not hold 6 tokens": [replace(PREFILL, appends=BlockAppends(rows=(0,), counts=(1,), blocks=(1,)))],
    "it has blocks": [
        PREFILL,
        replace(PREFILL, rows=(1,), appends=replace(TABLE, rows=(1,)), fork_counts=(1,), fork_rows=(0,)),
    ],
    "draws nothing": [replace(PREFILL, samples=(False,), fork_counts=(1,), fork_rows=(1,))],
    "forked rows are not": [replace(PREFILL, fork_counts=(2,), fork_rows=(1,))],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_schedule_that_cannot_be_right_is_refused(message: str) -> None:
    rank = Rank()
    *before, last = REFUSED[message]
    for rows in before:
        rank.inputs.claim(rows)
    with pytest.raises(ScheduleRefusedError, match=message):
        rank.inputs.claim(last)


@pytest.mark.parametrize("row", [-1, 4])
def test_a_sequence_gets_no_row_that_the_table_has_not(row: int) -> None:
    with pytest.raises(ScheduleRefusedError, match=f"there is no row {row}"):
        SequenceTable(4).start(start(row))


def test_a_row_that_no_sequence_holds_is_not_freed() -> None:
    with pytest.raises(ScheduleRefusedError, match="no sequence holds"):
        SequenceTable(4).end(1)
