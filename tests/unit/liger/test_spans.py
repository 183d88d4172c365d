import pytest

from liger.domain import SegmentKind
from liger.spans import hidden_share, lane_use
from tests.support.plans import ALL_REDUCE, MLP, MS, span, two_batches


def test_communication_is_hidden_by_another_batchs_compute_alone():
    own = (span(1, MLP, 0, 10), span(1, ALL_REDUCE, 0, 10))
    other = (span(2, MLP, 0, 10), span(1, ALL_REDUCE, 0, 10))
    assert hidden_share(own) == 0.0
    assert hidden_share(other) == 1.0


def test_what_cannot_be_hidden_does_not_count_against_the_share():
    spans = (span(1, MLP, 0, 2), span(2, ALL_REDUCE, 0, 10))
    assert hidden_share(spans) == 1.0
    assert lane_use(spans)[0].hideable_ns == 2 * MS


@pytest.mark.parametrize("spans", [(), (span(1, MLP, 0, 10),), (span(1, ALL_REDUCE, 0, 10),)])
def test_where_nothing_could_be_hidden_there_is_no_share(spans):
    assert hidden_share(spans) is None


def test_spans_that_overlap_count_once():
    spans = (
        span(1, MLP, 0, 10),
        span(2, MLP, 5, 15),
        span(1, ALL_REDUCE, 4, 8),
        span(2, ALL_REDUCE, 6, 20),
        span(1, SegmentKind.SAMPLE, 30, 30),
    )
    use = lane_use(spans)[0]
    assert (use.compute_ns, use.communication_ns, use.hidden_ns, use.extent_ns) == (15 * MS, 16 * MS, 5 * MS, 30 * MS)


def test_spans_that_only_touch_do_not_hide_one_another():
    assert hidden_share((span(1, MLP, 0, 5), span(2, ALL_REDUCE, 5, 10))) == 0.0


def test_ranks_are_judged_on_their_own_clocks():
    near, far = two_batches().spans, (span(1, MLP, 9e9, 9e9 + 10, rank=1), span(1, ALL_REDUCE, 9e9, 9e9 + 8, rank=1))
    uses = lane_use((*far, *near))
    assert list(uses) == [0, 1]
    assert uses[0].hidden_ns == 8 * MS
    assert uses[1].hidden_ns == 0
    assert hidden_share((*near, *far)) == 0.5
