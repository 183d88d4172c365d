import pytest
import torch

from worker.feedback import Feedback
from worker.sequences import SequenceTable


class Tokens:
    """An exchange that brings tokens when it is told to."""

    def __init__(self, *token_ids, is_here=False):
        self.ended_ns = 1 if is_here else None
        self.is_awaited = False
        self._token_ids = torch.tensor(token_ids, dtype=torch.int64)

    def wait(self):
        self.is_awaited = True
        return (self._token_ids,)


@pytest.fixture
def table():
    return SequenceTable(4)


@pytest.fixture
def feedback(table):
    return Feedback(table, lambda exchange: exchange.wait())


def test_tokens_that_are_needed_are_awaited_and_no_others(table, feedback):
    needed, other = Tokens(5, 6), Tokens(7)
    feedback.add((0, 1), needed)
    feedback.add((2,), other)
    feedback.settle((1,))
    assert table.last_tokens.tolist() == [5, 6, 0, 0]
    assert (needed.is_awaited, other.is_awaited) == (True, False)


def test_later_tokens_of_a_row_win(table, feedback):
    feedback.add((0,), Tokens(5))
    feedback.add((0,), Tokens(6, is_here=True))
    feedback.settle((0,))
    assert table.last_tokens[0] == 6


def test_tokens_that_are_here_are_put_away_in_their_order(table, feedback):
    first, second = Tokens(5), Tokens(6, is_here=True)
    feedback.add((0,), first)
    feedback.add((0,), second)
    feedback.add((1,), Tokens(9))
    assert not second.is_awaited  # the first is still on its way
    first.ended_ns = 2
    feedback.add((2,), Tokens(8))
    assert table.last_tokens[0] == 6


def test_a_batch_that_drew_nothing_changes_nothing(table, feedback):
    feedback.add((), Tokens(is_here=True))
    feedback.add((3,), Tokens(4))
    feedback.settle((3,))
    assert table.last_tokens.tolist() == [0, 0, 0, 4]
