"""Which part of each layer a rank holds: heads, MLP columns and vocabulary rows, in plain numbers.

Parts are contiguous, in rank order and differ by at most one unit. Nothing has to divide evenly.
"""

from dataclasses import dataclass

from liger.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What one rank holds."""

    heads: range  # query heads; as many for each of kv_heads
    kv_heads: range  # key-value heads; where ranks outnumber them, several ranks hold the same one
    columns: range  # of the MLP
    vocabulary: range  # rows of the language head


def split(total: int, parts: int, index: int) -> range:
    """Return part `index` of `total` units cut in `parts`; the first parts take what is left over."""
    size, left = divmod(total, parts)
    start = index * size + min(index, left)
    return range(start, start + size + (index < left))


def partition(
    *, num_heads: int, num_kv_heads: int, ffn_size: int, vocab_size: int, tp_rank: int, tp_size: int
) -> Partition:
    """Return the part of rank `tp_rank` of `tp_size`.

    Raises:
        ConfigError: There are more ranks than query heads, columns or vocabulary rows, or no such rank.
    """
    largest = min(num_heads, ffn_size, vocab_size)
    if not 1 <= tp_size <= largest:
        raise ConfigError(
            f"a model with {num_heads} heads splits over 1 to {largest} ranks, not {tp_size}: set tp_size so"
        )
    if not 0 <= tp_rank < tp_size:
        raise ConfigError(f"there is no rank {tp_rank} among {tp_size}: ranks count from 0")
    heads, kv_heads = _split_heads(num_heads, num_kv_heads, tp_rank, tp_size)
    return Partition(
        heads=heads,
        kv_heads=kv_heads,
        columns=split(ffn_size, tp_size, tp_rank),
        vocabulary=split(vocab_size, tp_size, tp_rank),
    )


def _split_heads(num_heads: int, num_kv_heads: int, rank: int, size: int) -> tuple[range, range]:
    group = num_heads // num_kv_heads  # query heads of each key-value head
    if size <= num_kv_heads:
        kv_heads = split(num_kv_heads, size, rank)
        return range(kv_heads.start * group, kv_heads.stop * group), kv_heads
    owner = next(head for head in range(num_kv_heads) if rank in split(size, num_kv_heads, head))
    sharers = split(size, num_kv_heads, owner)  # the ranks that hold this key-value head
    part = split(group, len(sharers), rank - sharers.start)
    start = owner * group
    return range(start + part.start, start + part.stop), range(owner, owner + 1)
