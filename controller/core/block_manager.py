"""KV blocks of a group, logical only: which are free, which sequence holds which."""

from liger.errors import LigerError


class BlockManager:
    """Hands blocks 0 to `num_blocks` - 1 out; every rank keeps a block's keys and values under the same number.

    Args:
        num_blocks: Blocks that the rank with the least room has.
        block_size: Tokens a block holds.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return len(self._held)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """Take so many blocks, or None (and nothing) if fewer are free."""
        if count > len(self._free):
            return None
        blocks = tuple(self._free.pop() for _ in range(count))
        self._held.update(blocks)
        return blocks

    def free(self, blocks: tuple[int, ...]) -> None:
        """Give blocks back. The caller knows that no batch in flight reads or writes them."""
        for block in blocks:
            self._held.remove(block)
            self._free.append(block)

    def check_integrity(self) -> None:
        """Raise if a block is lost or held twice.

        Raises:
            LigerError: Our own accounting is wrong.
        """
        together = set(self._free) | self._held
        if len(self._free) + len(self._held) != self.num_blocks or together != set(range(self.num_blocks)):
            raise LigerError(f"{self.num_blocks} KV blocks, but {len(self._free)} free and {len(self._held)} held")
