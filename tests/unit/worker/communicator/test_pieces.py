"""Memory for partial sums, and the results of pieces of it."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.communicator.local import LocalCommunicator
from worker.communicator.memory import ExchangeMemory, PartialMemory
from worker.communicator.pieces import whole

SIZES = ExchangeMemory(num_slots=2, max_tokens=8, hidden_size=4, dtype=torch.float32, device=torch.device("cpu"))


@given(cuts=st.lists(st.integers(0, 8), max_size=4).map(sorted))
def test_pieces_of_one_memory_become_whole_without_a_copy(cuts):
    memory = torch.arange(40.0).view(10, 4)[1:9]
    bounds = [0, *cuts, 8]
    pieces = [(memory[a:b],) if a < b else () for a, b in pairwise(bounds)]
    (joined,) = whole(pieces)
    assert torch.equal(joined, memory)
    assert joined.data_ptr() == memory.data_ptr()


def test_pieces_that_lie_apart_are_copied_together():
    memory = torch.arange(24.0).view(6, 4)
    for parts in ([memory[:2], memory[3:]], [memory[3:], memory[:3]], [memory[:3], memory.clone()[3:]]):
        (joined,) = whole([(part,) for part in parts])
        assert torch.equal(joined, torch.cat(parts))


def test_each_addend_of_pieces_is_put_together_by_itself():
    first, second = torch.ones(4, 2), torch.zeros(4, 2)
    joined = whole([(first[:1], second[:1]), (first[1:], second[1:])])
    assert [part.tolist() for part in joined] == [first.tolist(), second.tolist()]


def test_a_place_of_a_slot_keeps_its_memory_and_shares_it_with_no_other():
    memory = PartialMemory(SIZES)
    places = [memory.take(slot, place, (8, 4), torch.float32) for slot in range(2) for place in range(2)]
    for number, place in enumerate(places):
        place.fill_(number)
    assert [place.unique().tolist() for place in places] == [[0.0], [1.0], [2.0], [3.0]]
    assert memory.take(1, 0, (2, 4), torch.float32).data_ptr() == places[2].data_ptr()
    assert LocalCommunicator(memory).partial(1, 1, (3, 4), torch.float32).data_ptr() == places[3].data_ptr()


def test_partial_sums_of_an_input_longer_than_a_batch_get_memory_of_their_own():
    memory = PartialMemory(SIZES)
    long = memory.take(0, 0, (9, 4), torch.float32)
    assert long.shape == (9, 4)
    assert long.data_ptr() != memory.take(0, 0, (8, 4), torch.float32).data_ptr()


def test_host_communicators_give_new_memory_each_time():
    communicator = LocalCommunicator()
    one, other = (communicator.partial(0, 0, (2, 3), torch.bfloat16) for _ in range(2))
    assert one.shape == (2, 3)
    assert one.dtype is torch.bfloat16
    assert one.data_ptr() != other.data_ptr()


def test_pieces_that_came_different_ways_are_summed_in_order_and_rounded_once():
    one, other = (torch.full((2, 3), value, dtype=torch.bfloat16) for value in (1.0, 2**-8))
    (joined,) = whole([(torch.zeros(1, 3, dtype=torch.bfloat16),), (one, other, other)])
    assert joined.dtype is torch.bfloat16
    assert joined.tolist() == [[0.0] * 3] + [[1 + 2**-7] * 3] * 2  # each small addend alone would be rounded away
