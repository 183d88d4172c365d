import pytest
from hypothesis import given
from hypothesis import strategies as st

from liger.errors import ConfigError
from worker.shards.partition import Partition, partition, split


@st.composite
def models(draw: st.DrawFn) -> dict[str, int]:
    kv_heads = draw(st.integers(1, 16))
    return {
        "num_kv_heads": kv_heads,
        "num_heads": kv_heads * draw(st.integers(1, 8)),
        "ffn_size": draw(st.integers(128, 5000)),
        "vocab_size": draw(st.integers(128, 200_000)),
    }


@st.composite
def groups(draw: st.DrawFn) -> tuple[dict[str, int], list[Partition]]:
    model = draw(models())
    size = draw(st.integers(1, model["num_heads"]))
    return model, [partition(**model, tp_rank=rank, tp_size=size) for rank in range(size)]


def joined(parts: list[range]) -> list[int]:
    return [unit for part in parts for unit in part]


@given(groups())
def test_heads_columns_and_vocabulary_are_held_once_and_in_rank_order(
    group: tuple[dict[str, int], list[Partition]],
) -> None:
    model, parts = group
    assert joined([part.heads for part in parts]) == list(range(model["num_heads"]))
    assert joined([part.columns for part in parts]) == list(range(model["ffn_size"]))
    assert joined([part.vocabulary for part in parts]) == list(range(model["vocab_size"]))


@given(groups())
def test_every_rank_holds_the_key_heads_of_its_query_heads_and_no_others(
    group: tuple[dict[str, int], list[Partition]],
) -> None:
    model, parts = group
    ratio = model["num_heads"] // model["num_kv_heads"]
    for part in parts:
        assert {head // ratio for head in part.heads} == set(part.kv_heads)


@given(groups())
def test_query_heads_divide_evenly_over_a_ranks_key_heads(group: tuple[dict[str, int], list[Partition]]) -> None:
    for part in group[1]:
        assert len(part.heads) % len(part.kv_heads) == 0
        assert len(part.heads) >= 1


@given(groups())
def test_key_heads_are_replicated_only_when_ranks_outnumber_them(
    group: tuple[dict[str, int], list[Partition]],
) -> None:
    model, parts = group
    held = joined([part.kv_heads for part in parts])
    assert sorted(set(held)) == list(range(model["num_kv_heads"]))
    assert len(held) == max(model["num_kv_heads"], len(parts))


@given(st.integers(1, 1000), st.integers(1, 64))
def test_parts_differ_by_one_unit_at_most(total: int, parts: int) -> None:
    sizes = [len(split(total, parts, index)) for index in range(parts)]
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1


def test_nine_heads_over_two_ranks_keep_the_heads_of_a_key_head_together() -> None:
    parts = [partition(num_heads=9, num_kv_heads=3, ffn_size=8, vocab_size=8, tp_rank=r, tp_size=2) for r in range(2)]
    assert [(part.heads, part.kv_heads) for part in parts] == [
        (range(6), range(2)),
        (range(6, 9), range(2, 3)),
    ]


def test_nine_heads_over_four_ranks_share_a_key_head() -> None:
    parts = [partition(num_heads=9, num_kv_heads=3, ffn_size=8, vocab_size=8, tp_rank=r, tp_size=4) for r in range(4)]
    assert [len(part.heads) for part in parts] == [2, 1, 3, 3]
    assert [part.kv_heads.start for part in parts] == [0, 0, 1, 2]


@pytest.mark.parametrize("size", [0, 10, 64])
def test_more_ranks_than_heads_are_refused_with_the_largest_number(size: int) -> None:
    with pytest.raises(ConfigError, match=f"over 1 to 9 ranks, not {size}"):
        partition(num_heads=9, num_kv_heads=3, ffn_size=64, vocab_size=64, tp_rank=0, tp_size=size)


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_beyond_the_group_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"no rank {rank} among 3"):
        partition(num_heads=9, num_kv_heads=3, ffn_size=64, vocab_size=64, tp_rank=rank, tp_size=3)
