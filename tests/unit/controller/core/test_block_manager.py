"""KV blocks: references, prefixes that are found again, eviction and copy-on-write."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.core.block_manager import BlockManager, block_digests
from liger.errors import LigerError


def manager(num_blocks: int = 8) -> BlockManager:
    """Make one with blocks of 4 tokens."""
    return BlockManager(num_blocks=num_blocks, block_size=4)


def taken(blocks: BlockManager, count: int) -> tuple[int, ...]:
    """Allocate what is known to be there."""
    got = blocks.allocate(count)
    assert got is not None
    return got


def published(blocks: BlockManager, *digests: bytes) -> tuple[int, ...]:
    """Allocate a table and publish it."""
    table = taken(blocks, len(digests))
    for block, digest in zip(table, digests, strict=True):
        blocks.publish(block, digest)
    return table


def test_only_full_blocks_have_a_digest() -> None:
    assert block_digests([1, 2, 3], 4) == ()
    assert len(block_digests(range(11), 4)) == 2
    assert all(len(digest) == 16 for digest in block_digests(range(11), 4))


def test_a_digest_tells_the_tokens_before_its_block_too() -> None:
    one, other = block_digests([1, 1, 7, 7], 2), block_digests([2, 2, 7, 7], 2)
    assert one[1] != other[1]
    assert one[0] == block_digests([1, 1, 9, 9], 2)[0]


@given(tokens=st.lists(st.integers(0, 2**32 - 1), max_size=40), block_size=st.integers(1, 7), data=st.data())
def test_digests_go_on_where_those_before_end(tokens: list[int], block_size: int, data: st.DataObject) -> None:
    whole = block_digests(tokens, block_size)
    known = data.draw(st.integers(0, len(whole)))
    rest = tuple(tokens[known * block_size :])
    assert whole[:known] + block_digests(rest, block_size, whole[known - 1] if known else b"") == whole


def test_digests_of_a_sequence_that_was_trimmed_are_trimmed() -> None:
    assert block_digests(range(9), 4) == block_digests(range(12), 4)[:2]


def test_different_blocks_have_different_digests() -> None:
    assert len(set(block_digests([5] * 400, 4))) == 100


def test_blocks_that_are_not_there_leave_everything_as_it_was() -> None:
    blocks = manager(3)
    table = taken(blocks, 2)
    assert blocks.allocate(2) is None
    assert (blocks.num_free, blocks.num_used, blocks.num_cached) == (1, 2, 0)
    blocks.check_integrity([table])


def test_a_published_prefix_is_found_again_after_its_owner_is_gone() -> None:
    blocks = manager()
    table = published(blocks, b"a", b"b")
    blocks.free(table)
    assert (blocks.num_free, blocks.num_used, blocks.num_cached) == (8, 0, 2)
    assert blocks.find_prefix([b"a", b"b", b"c"]) == table
    assert (blocks.num_free, blocks.num_used, blocks.num_cached) == (6, 2, 0)
    blocks.check_integrity([table])


def test_a_prefix_with_a_gap_is_found_up_to_it() -> None:
    blocks = manager()
    table = published(blocks, b"a", b"b")
    assert blocks.find_prefix([b"a", b"missing", b"b"]) == table[:1]
    assert blocks.find_prefix([b"b"]) == table[1:]
    assert blocks.find_prefix([]) == ()


def test_what_was_never_published_is_never_found() -> None:
    blocks = manager()
    blocks.free(taken(blocks, 3))
    assert blocks.num_cached == 0
    assert blocks.find_prefix([b"a"]) == ()


def test_free_blocks_are_taken_before_cached_ones_and_old_ones_before_new() -> None:
    blocks = manager(4)
    old, new = published(blocks, b"old"), published(blocks, b"new")
    blocks.free(old)
    blocks.free(new)
    assert set(taken(blocks, 2)).isdisjoint(old + new)
    assert taken(blocks, 1) == old
    assert blocks.find_prefix([b"old"]) == ()
    assert blocks.find_prefix([b"new"]) == new


def test_a_prefix_that_was_used_again_is_evicted_later() -> None:
    blocks = manager(2)
    first, second = published(blocks, b"first"), published(blocks, b"second")
    blocks.free(first)
    blocks.free(second)
    blocks.free(blocks.find_prefix([b"first"]))
    assert taken(blocks, 1) == second


def test_the_last_blocks_of_a_table_are_evicted_first() -> None:
    blocks = manager(3)
    table = published(blocks, b"a", b"b", b"c")
    blocks.free(table)
    assert taken(blocks, 1) == table[2:]
    assert blocks.find_prefix([b"a", b"b", b"c"]) == table[:2]


def test_a_prefix_in_use_is_not_evicted() -> None:
    blocks = manager(2)
    table = published(blocks, b"a")
    blocks.free(table)
    assert blocks.find_prefix([b"a"]) == table
    assert blocks.allocate(2) is None


def test_contents_that_are_known_already_stay_with_the_first_block() -> None:
    blocks = manager()
    first = published(blocks, b"a")
    second = published(blocks, b"a")
    blocks.free(second)
    assert blocks.num_cached == 0
    assert blocks.find_prefix([b"a"]) == first


def test_a_block_cannot_be_published_with_two_contents() -> None:
    blocks = manager()
    (block,) = published(blocks, b"a")
    with pytest.raises(LigerError, match="other contents"):
        blocks.publish(block, b"b")
    assert blocks.find_prefix([b"b"]) == ()


def test_a_shared_block_is_free_when_the_last_owner_gave_it_back() -> None:
    blocks = manager(2)
    table = taken(blocks, 2)
    blocks.share(table)
    assert blocks.is_shared(table[0])
    blocks.free(table)
    assert not blocks.is_shared(table[0])
    assert blocks.num_free == 0
    blocks.free(table)
    assert blocks.num_free == 2


def test_a_block_of_one_owner_is_written_in_place() -> None:
    blocks = manager()
    (block,) = taken(blocks, 1)
    assert blocks.writable(block) == block
    assert blocks.num_used == 1


def test_a_shared_block_is_copied_before_it_is_written() -> None:
    blocks = manager()
    (block,) = taken(blocks, 1)
    blocks.share((block,))
    copy = blocks.writable(block)
    assert copy is not None
    assert copy != block
    blocks.check_integrity([(block,), (copy,)])
    assert blocks.writable(block) == block


def test_an_indexed_block_is_copied_even_with_one_owner() -> None:
    blocks = manager(2)
    (block,) = published(blocks, b"a")
    copy = blocks.writable(block)
    assert copy not in {None, block}
    assert blocks.num_cached == 1
    assert blocks.find_prefix([b"a"]) == (block,)


def test_no_room_for_a_copy_changes_nothing() -> None:
    blocks = manager(1)
    table = taken(blocks, 1)
    blocks.share(table)
    assert blocks.writable(table[0]) is None
    blocks.check_integrity([table, table])


@pytest.mark.parametrize(
    "use",
    [
        lambda blocks: blocks.free((0,)),
        lambda blocks: blocks.share((0,)),
        lambda blocks: blocks.publish(0, b"a"),
        lambda blocks: blocks.writable(0),
        lambda blocks: blocks.free((99,)),
    ],
)
def test_a_block_that_nobody_holds_is_refused(use: object) -> None:
    blocks = manager()
    with pytest.raises(LigerError, match="nobody holds"):
        use(blocks)  # type: ignore[operator]
    blocks.check_integrity([])


def test_tables_that_differ_from_the_references_are_told() -> None:
    blocks = manager()
    table = taken(blocks, 2)
    with pytest.raises(LigerError, match="references"):
        blocks.check_integrity([table[:1]])
    with pytest.raises(LigerError, match="references"):
        blocks.check_integrity([table, table[:1]])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda blocks: blocks._free.pop(), "lost"),
        (lambda blocks: blocks._free.append(blocks._free[0]), "two states"),
        (lambda blocks: blocks._free.append(8), "unknown"),
        (lambda blocks: blocks._free.append(blocks._cached.popitem()[0]), "free one is"),
        (lambda blocks: blocks._block_of.update(c=1), "disagree"),
        (lambda blocks: blocks._block_of.clear(), "disagree"),
        (lambda blocks: (blocks._block_of.clear(), blocks._digest_of.clear()), "not in the index"),
    ],
)
def test_damage_to_the_accounting_is_told(damage: object, told: str) -> None:
    blocks = manager()
    blocks.free(published(blocks, b"a", b"b"))
    damage(blocks)  # type: ignore[operator]
    with pytest.raises(LigerError, match=told):
        blocks.check_integrity()


class Blocks(RuleBasedStateMachine):
    """The manager beside a model that knows the contents of every block, as a rank would."""

    SIZE = 6

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(num_blocks=self.SIZE, block_size=4)
        self.tables: list[list[int]] = []
        self.index: dict[bytes, int] = {}  # what may be found
        self.unused: list[int] = []  # indexed, in no table; least recently used first

    def references(self) -> Counter[int]:
        return Counter(block for table in self.tables for block in table)

    def room(self) -> int:
        return self.SIZE - len(self.references())

    def took(self, block: int, held: Counter[int]) -> None:
        """Check that the block was the right one to take, and forget what was in it."""
        assert block not in held
        if block in self.unused:
            assert self.SIZE - len(held) == len(self.unused), "a free block was left"
            assert block == self.unused.pop(0), "a younger one was evicted"
            self.index = {digest: at for digest, at in self.index.items() if at != block}

    def dropped(self, blocks: list[int]) -> None:
        held, known = self.references(), set(self.index.values())
        self.unused += [block for block in reversed(blocks) if block not in held and block in known]

    @rule(count=st.integers(0, 7))
    def allocate(self, count: int) -> None:
        room = self.room()
        got = self.blocks.allocate(count)
        assert (got is None) == (count > room)
        if got is not None:
            assert len(set(got)) == count
            held = self.references()
            for block in got:
                self.took(block, held)
                held[block] += 1
            self.tables.append(list(got))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        fork = table[: data.draw(st.integers(0, len(table)))]
        self.blocks.share(fork)
        self.tables.append(fork)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.blocks.free(table)
        self.dropped(table)

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data(), digest=st.binary(min_size=1, max_size=1))
    def publish(self, data: st.DataObject, digest: bytes) -> None:
        block = data.draw(st.sampled_from([block for table in self.tables for block in table]))
        if digest not in self.index and block in self.index.values():
            return  # its contents are known; it keeps its name
        self.blocks.publish(block, digest)
        self.index.setdefault(digest, block)

    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        known = st.sampled_from(sorted(self.index)) if self.index else st.nothing()
        digests = data.draw(st.lists(known | st.binary(min_size=1, max_size=1), max_size=4, unique=True))
        wanted: list[int] = []
        for digest in digests:
            if digest not in self.index:
                break
            wanted.append(self.index[digest])
        assert list(self.blocks.find_prefix(digests)) == wanted
        self.tables.append(wanted)
        self.unused = [block for block in self.unused if block not in wanted]

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from([table for table in self.tables if table]))
        old = table[-1]
        held, room = self.references(), self.room()
        new = self.blocks.writable(old)
        if held[old] == 1 and old not in self.index.values():
            assert new == old
        elif room == 0:
            assert new is None
        else:
            assert new is not None
            self.took(new, held)
            table[-1] = new
            self.dropped([old])

    @invariant()
    def accounts_agree(self) -> None:
        held = self.references()
        self.blocks.check_integrity(self.tables)
        assert self.blocks.num_used == len(held)
        assert self.blocks.num_cached == len(self.unused)
        assert self.blocks.num_free == self.SIZE - len(held)
        assert all(self.blocks.is_shared(block) == (held[block] > 1) for block in range(self.SIZE))


Blocks.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBlocks = Blocks.TestCase
