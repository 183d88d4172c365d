import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.staging import Page, PageTurner

SHAPES = st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=2), min_size=1, max_size=20)


@settings(deadline=None, max_examples=30)
@given(SHAPES, st.randoms(use_true_random=False))
def test_what_is_taken_of_a_page_never_overlaps(shapes, random):
    page = Page(pin=False)
    taken = [page.take(shape, random.choice([torch.int64, torch.float32, torch.uint8])) for shape in shapes]
    for place, tensor in enumerate(taken):
        tensor.fill_(place)
    assert all((tensor == place).all() for place, tensor in enumerate(taken))


def test_a_page_larger_than_a_chunk_is_given_whole():
    assert Page(pin=False).take((3_000_000,), torch.float32).numel() == 3_000_000


def test_windows_under_way_have_pages_of_their_own():
    pages = PageTurner(pin=False)
    first = pages.turn()
    kept = pages.put([1, 2, 3], torch.int64)
    second = pages.turn()
    pages.put([9, 9, 9], torch.int64)
    assert kept.tolist() == [1, 2, 3]
    pages.give_back(first)
    assert pages.turn() is first
    assert pages.put([4, 5, 6], torch.int64).data_ptr() == kept.data_ptr()
    assert second is not first


def test_what_is_fetched_may_be_read_later():
    pages = PageTurner(pin=False)
    pages.turn()
    source = torch.arange(5)
    fetched = pages.fetch(source)
    source.zero_()
    assert fetched.tolist() == [0, 1, 2, 3, 4]
