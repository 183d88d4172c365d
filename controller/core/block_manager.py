"""KV blocks of a group, logical only: who holds which, which are free, and which prefixes are still there to be found.

A block is in exactly one of three states. *Used*: tables of sequences hold references to it. *Cached*: nobody holds it,
but the index of prefixes knows its contents; it may be found again, or evicted for a new owner. *Free*: nothing that
anybody could want is in it. Every rank keeps the keys and values of a block under the same number.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import takewhile
from typing import Final

from liger.errors import LigerError

DIGEST_BYTES: Final = 16
_TOKEN_BYTES: Final = array("I").itemsize


def block_digests(token_ids: Sequence[int], block_size: int, parent: bytes = b"") -> tuple[bytes, ...]:
    """Name full blocks of a sequence, each by its tokens and all before them.

    Args:
        token_ids: Of the sequence from a block's first on, each below 2^32; what fills no block is left out.
        block_size: Tokens a block holds.
        parent: Digest of the block before; empty for the sequence's beginning.

    Returns:
        A digest of 16 bytes for every full block.
    """
    step = block_size * _TOKEN_BYTES
    contents = array("I", token_ids).tobytes()
    digests, digest = [], parent
    for start in range(0, len(contents) - step + 1, step):
        digest = blake2b(digest + contents[start : start + step], digest_size=DIGEST_BYTES).digest()
        digests.append(digest)
    return tuple(digests)


class BlockManager:
    """Hands blocks 0 to `num_blocks` - 1 out, counts their references and finds prefixes again.

    An indexed block is never written, so whoever finds it reads what was published. Callers know when a block may be
    given to another: no batch in flight reads or writes what they free.

    Args:
        num_blocks: Blocks that the rank with the least room has.
        block_size: Tokens a block holds.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._references: dict[int, int] = {}  # of used blocks, each at least 1
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._block_of: dict[bytes, int] = {}  # the index: digest to block
        self._digest_of: dict[int, bytes] = {}  # and back

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now, cached ones among them."""
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return len(self._references)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds, but that a prefix may still find."""
        return len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """Take so many blocks, or None (and nothing) if fewer are there.

        Free ones go first, then those cached, least recently used first; what is evicted is never found again.
        """
        if count > self.num_free:
            return None
        return tuple(self._take() for _ in range(count))

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of the blocks, which others hold already.

        Raises:
            LigerError: Nobody holds one of them.
        """
        for block in blocks:
            self._references[block] = self._held(block) + 1

    def free(self, blocks: Sequence[int]) -> None:
        """Give a reference to each of the blocks back.

        Of a table's blocks the last grow old first: a prefix is found only from its first block on.

        Raises:
            LigerError: Nobody holds one of them.
        """
        for block in reversed(blocks):
            left = self._held(block) - 1
            if left:
                self._references[block] = left
                continue
            del self._references[block]
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def find_prefix(self, digests: Iterable[bytes]) -> tuple[int, ...]:
        """Take a reference to each block of the longest indexed prefix.

        Args:
            digests: Of a sequence's blocks, from the first on.
        """
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            self._cached.pop(block, None)
            self._references[block] = self._references.get(block, 0) + 1
            found.append(block)
        return tuple(found)

    def num_findable(self, digests: Iterable[bytes]) -> int:
        """Return how many blocks `find_prefix` would find; takes none."""
        return sum(1 for _ in takewhile(self._block_of.__contains__, digests))

    def publish(self, block: int, digest: bytes) -> None:
        """Let a block be found by its digest, unless another block is already.

        Args:
            block: Held by the caller, full, and committed on every rank.
            digest: Of `block_digests`.

        Raises:
            LigerError: Nobody holds the block, or it is known by another digest.
        """
        self._held(block)
        if digest in self._block_of:
            return
        if block in self._digest_of:
            raise LigerError(f"KV block {block} was published with other contents before")
        self._block_of[digest] = block
        self._digest_of[block] = digest

    def is_shared(self, block: int) -> bool:
        """Say whether the block has more than one reference."""
        return self._references.get(block, 0) > 1

    def writable(self, block: int) -> int | None:
        """Return a block with the same owner that may be written: copy-on-write.

        Returns:
            The block itself if it has one reference and is not indexed. Otherwise a new one, for which a reference to
            the old one is given back: the caller has the contents copied before the old one can get another owner. None
            (and nothing changes) if no block is there.

        Raises:
            LigerError: Nobody holds the block.
        """
        if self._held(block) == 1 and block not in self._digest_of:
            return block
        if self.num_free == 0:
            return None
        new = self._take()  # before the old one is given back, so that it is another
        self.free((block,))
        return new

    def check_integrity(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Raise if a block is lost or in two states, or if references or index disagree with what they count.

        Args:
            tables: Blocks of every sequence that holds any; None leaves references unchecked.

        Raises:
            LigerError: Our own accounting is wrong.
        """
        states = Counter((*self._free, *self._cached, *self._references))
        if states != Counter(range(self.num_blocks)):
            wrong = sorted(block for block in {*range(self.num_blocks), *states} if states[block] != 1)
            raise LigerError(f"of {self.num_blocks} KV blocks these are lost, unknown or in two states: {wrong}")
        if {digest: block for block, digest in self._digest_of.items()} != self._block_of:
            raise LigerError("the index of KV blocks and the blocks' digests disagree")
        if not self._cached.keys() <= self._digest_of.keys() or not self._digest_of.keys().isdisjoint(self._free):
            raise LigerError("a cached KV block is not in the index, or a free one is")
        if tables is not None:
            self._check_references(Counter(block for table in tables for block in table))

    def _check_references(self, counted: Counter[int]) -> None:
        if counted != Counter(self._references):
            wrong = sorted(
                block for block in {*counted, *self._references} if counted[block] != self._references.get(block, 0)
            )
            raise LigerError(f"KV blocks whose references are not those of the tables: {wrong}")

    def _take(self) -> int:
        """Return a block with one reference; there is one."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._references[block] = 1
        return block

    def _held(self, block: int) -> int:
        """Return the references to a block, at least 1."""
        references = self._references.get(block)
        if references is None:
            raise LigerError(f"KV block {block} is used, but nobody holds it")
        return references
