"""What encode and prefill batches give: the same by few launches as input by input, and nothing waits for a device."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from liger.domain import PoolOutput
from tests.unit.worker.encoding import LENGTHS, OUTPUTS, Head, encode, hidden_states, predict
from tests.unit.worker.sampling.placement import Placement
from worker.pooling import Vectors, pooled_together
from worker.sampling.transfers import fetch_here, stage_here

META = torch.device("meta")


def spans() -> list[range]:
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return [range(end - length, end) for end, length in zip(ends, LENGTHS, strict=True)]


def test_inputs_get_their_vectors_scores_and_likelihoods() -> None:
    hidden = hidden_states()
    results = encode(hidden)()
    assert [len(one.values) for one in results] == [16, 16, 5, 3, 16, 0, 0]
    assert [len(one.logprobs) for one in results] == [0, 0, 0, 0, 0, 4, 2]
    assert results[1].values == pytest.approx(hidden[3].tolist())
    table = torch.cat([Head(0)._table, Head(1)._table])
    expected = (hidden @ table.T).log_softmax(-1)
    first = sum(LENGTHS[:5]) + 1
    for place, logprob in enumerate(results[5].logprobs, start=first):
        assert logprob.token_id == place + 1
        assert logprob.logprob == pytest.approx(expected[place, place + 1].item(), abs=1e-5)
        assert logprob.top_token_ids == (expected[place].argmax().item(),)


def test_pooling_together_gives_what_pooling_alone_gives() -> None:
    hidden = hidden_states()
    pools = [(item, one, span) for item, (one, span) in enumerate(zip(OUTPUTS, spans(), strict=True))]
    pools = [one for one in pools if isinstance(one[1], PoolOutput)]
    (table,) = pooled_together(hidden, pools, stage_here)
    expected = Vectors(Head(0), OUTPUTS, spans(), hidden, stage_here).read(fetch_here)()
    assert table.items == [0, 1, 2, 4]
    for item, width, values in zip(table.items, table.widths, table.values.tolist(), strict=True):
        assert values[:width] == pytest.approx(expected[item], abs=1e-6)


def test_nothing_waits_for_the_device() -> None:
    def stage(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(META)

    with Placement():
        encode(hidden_states().to(META), stage)
        predict(hidden_states().to(META), stage)


def test_prompts_tell_as_many_rivals_as_are_asked_for() -> None:
    logprobs = predict(hidden_states())()
    assert [one.token_id for one in logprobs] == [3, 9, 50, 1, 59, 58, 0, 7]
    assert [len(one.top_token_ids) for one in logprobs] == [2, 2, 2, 0, 4, 4, 4, 4]


def test_no_prediction_gives_none() -> None:
    assert predict(hidden_states(), predictions=())() == ()
