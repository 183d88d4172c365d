import torch

from worker.arenas import DeviceArena, HeapArena
from worker.staging import PageTurner

CPU = torch.device("cpu")


def arena():
    return DeviceArena(CPU, PageTurner(pin=False))


def test_a_name_keeps_its_place_until_it_grows():
    held = arena()
    first = held.hold("a", (3, 4), torch.float32)
    assert held.hold("a", (5,), torch.int64).data_ptr() == first.data_ptr()
    version = held.version
    assert held.hold("a", (1000, 1000), torch.float32).shape == (1000, 1000)
    assert held.version > version


def test_names_do_not_share_memory():
    held = arena()
    first, second = held.stage("a", [1, 2, 3], torch.int64), held.stage("b", [4, 5, 6], torch.int64)
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5, 6])


def test_staged_values_take_the_place_of_those_before():
    held = arena()
    before = held.stage("a", [1, 2, 3], torch.int64)
    after = held.stage("a", [7, 8], torch.int64)
    assert before.data_ptr() == after.data_ptr()
    assert before.tolist() == [7, 8, 3]


def test_staged_tables_and_tensors_keep_their_shape_and_type():
    held = arena()
    assert held.stage("a", [[1, 2], [3, 4]], torch.int32).tolist() == [[1, 2], [3, 4]]
    staged = held.stage("b", torch.tensor([1.5, 2.5]), torch.float16)
    assert (staged.tolist(), staged.dtype) == ([1.5, 2.5], torch.float16)
    assert held.stage("c", [], torch.int64).shape == (0,)


def test_new_memory_is_zero_so_that_padding_is_harmless():
    assert not arena().hold("a", (100,), torch.float32).any()


def test_the_heap_gives_new_memory_each_time():
    held = HeapArena()
    first, second = held.stage("a", [1], torch.int64), held.stage("a", [2], torch.int64)
    assert (first.item(), second.item()) == (1, 2)
