"""Draws are distributed as transformers' processors and warpers say, or the penalties' formula where it has none."""

import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from liger.domain import Sampling
from tests.unit.worker.sampling.drawing import Ranks, ask, draw_often, even_shards
from worker.sampling.filters import Filters, filter_columns, keep_tokens, needs_masses
from worker.sampling.masses import join_masses, shard_masses

SIZE = 24
COUNT = 3000
PROMPT, OUTPUT = (3, 4, 5, 5, 9), (4, 7, 7, 7, 11, 20)
LOGITS = torch.randn(SIZE, generator=torch.Generator().manual_seed(3)) * 1.5


def p_value(observed: Tensor, expected: Tensor) -> float:
    """Return how likely counts as far off as these are, if probabilities are as expected (chi-square)."""
    mean = expected.double() * observed.sum()
    assert (observed[mean == 0] == 0).all()
    rare = (mean < 5) & (mean > 0)
    bins = [(observed[(mean >= 5)], mean[mean >= 5]), (observed[rare].sum().view(1), mean[rare].sum().view(1))]
    observed, mean = (torch.cat(parts).double() for parts in zip(*bins, strict=True))
    observed, mean = observed[mean > 0], mean[mean > 0]
    if len(mean) < 2:
        return 1.0
    distance = ((observed - mean) ** 2 / mean).sum()
    return float(torch.special.gammaincc(torch.tensor((len(mean) - 1) / 2.0).double(), distance / 2))


def warped(*processors: object) -> Tensor:
    """Return the distribution that transformers would draw from after PROMPT and OUTPUT."""
    scores = LOGITS.unsqueeze(0)
    for processor in processors:
        scores = processor(torch.tensor([PROMPT + OUTPUT]), scores)
    return scores.softmax(-1)[0]


def penalised(presence: float, frequency: float) -> Tensor:
    counts = torch.bincount(torch.tensor(OUTPUT), minlength=SIZE)
    return (LOGITS - presence * (counts > 0) - frequency * counts).softmax(-1)


CASES = [
    ({"temperature": 0.6}, lambda: warped(TemperatureLogitsWarper(0.6))),
    ({"top_k": 5}, lambda: warped(TopKLogitsWarper(5))),
    ({"top_p": 0.7}, lambda: warped(TopPLogitsWarper(0.7))),
    ({"min_p": 0.1}, lambda: warped(MinPLogitsWarper(0.1))),
    ({"typical_p": 0.6}, lambda: warped(TypicalLogitsWarper(0.6))),
    ({"repetition_penalty": 1.8}, lambda: warped(RepetitionPenaltyLogitsProcessor(1.8))),
    ({"repetition_penalty": 0.5}, lambda: warped(RepetitionPenaltyLogitsProcessor(0.5))),
    ({"presence_penalty": 1.5}, lambda: penalised(1.5, 0.0)),
    ({"frequency_penalty": 0.8}, lambda: penalised(0.0, 0.8)),
    ({"presence_penalty": -1.0, "frequency_penalty": 0.4}, lambda: penalised(-1.0, 0.4)),
    (
        {"logit_bias": ((2, 1.5), (7, -2.0), (23, 4.0))},
        lambda: warped(SequenceBiasLogitsProcessor([[[2], 1.5], [[7], -2.0], [[23], 4.0]])),
    ),
    ({"banned_token_ids": (1, 2, 8)}, lambda: warped(SuppressTokensLogitsProcessor([1, 2, 8], "cpu"))),
    (
        {"allowed_token_ids": (0, 5, 13, 22)},
        lambda: warped(SuppressTokensLogitsProcessor(sorted({*range(SIZE)} - {0, 5, 13, 22}), "cpu")),
    ),
    (
        {"min_tokens": 7, "stop": (6, 14)},
        lambda: warped(MinNewTokensLengthLogitsProcessor(len(PROMPT), 7, [6, 14], "cpu")),
    ),
    ({"min_tokens": 6, "stop": (6, 14)}, warped),
    (
        {
            "temperature": 1.3,
            "top_k": 15,
            "top_p": 0.95,
            "min_p": 0.02,
            "typical_p": 0.9,
            "repetition_penalty": 1.3,
            "logit_bias": ((2, 1.0),),
            "banned_token_ids": (0,),
        },
        lambda: warped(
            RepetitionPenaltyLogitsProcessor(1.3),
            SequenceBiasLogitsProcessor([[[2], 1.0]]),
            SuppressTokensLogitsProcessor([0], "cpu"),
            TemperatureLogitsWarper(1.3),
            TopKLogitsWarper(15),
            TopPLogitsWarper(0.95),
            MinPLogitsWarper(0.02),
            TypicalLogitsWarper(0.9),
        ),
    ),
]


@pytest.mark.parametrize(("controls", "expected"), CASES, ids=[str(controls) for controls, _ in CASES])
def test_frequencies_follow_the_distribution(controls: dict[str, object], expected: object) -> None:
    one = ask(prompt=PROMPT, output=OUTPUT, **{"temperature": 1.0, "seed": 11, **controls})
    assert p_value(draw_often(COUNT, LOGITS, one, 3), expected()) > 1e-3


def test_frequencies_under_a_grammar_follow_what_it_allows() -> None:
    mask = torch.arange(SIZE) % 3 == 1
    one = ask(temperature=1.0, seed=5, mask=mask)
    assert p_value(draw_often(COUNT, LOGITS, one), LOGITS.masked_fill(~mask, -torch.inf).softmax(-1)) > 1e-3


def test_the_test_tells_a_wrong_distribution() -> None:
    observed = draw_often(COUNT, LOGITS, ask(temperature=1.1, seed=11))
    assert p_value(observed, LOGITS.softmax(-1)) < 1e-3


WARPERS = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
}


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"typical_p": 0.3},
        {"typical_p": 0.95},
        {"top_k": 12, "top_p": 0.8},
        {"top_p": 0.8, "typical_p": 0.5},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.8},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_what_may_be_drawn_is_what_transformers_would_let_through(filters: dict[str, float], scale: float) -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(5)) * scale
    expected = logits
    for name, value in filters.items():
        expected = WARPERS[name](value)(None, expected)
    sampling = Sampling(temperature=1.0, **filters)
    ordered, order = logits.sort(descending=True)
    masses = join_masses(shard_masses(logits).unsqueeze(0)) if needs_masses(sampling) else None
    columns = torch.tensor(filter_columns([sampling] * 64), dtype=torch.float64)
    given = Filters.of(columns, [sampling] * 64)
    kept, is_sure = keep_tokens(ordered, torch.full((64,), -torch.inf), given, masses)
    assert is_sure.all()
    assert torch.equal(kept, expected.gather(-1, order) > -torch.inf)


def test_penalties_follow_what_is_drawn_token_by_token() -> None:
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(8))
    controls = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.6}
    ranks = Ranks(even_shards(SIZE, 3), [ask(prompt=PROMPT, **controls)])
    output: list[int] = []
    for step in range(40):
        scores = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([[*PROMPT, *output]]), logits)[0]
        counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=SIZE)
        expected = (scores - (0.5 * (counts > 0) + 0.6 * counts)).argmax().item()
        assert ranks.draw(logits, later=step).token_ids == (expected,)
        output.append(expected)
    assert len(set(output)) > 5


def test_a_preempted_sequence_goes_on_as_if_it_had_not_been() -> None:
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(8))
    controls = {"repetition_penalty": 1.4, "frequency_penalty": 0.6, "temperature": 1.0, "top_p": 0.9, "seed": 3}
    ranks = Ranks(even_shards(SIZE, 2), [ask(prompt=PROMPT, **controls)])
    output = [ranks.draw(logits, later=step).token_ids[0] for step in range(20)]
    again = Ranks(even_shards(SIZE, 2), [ask(prompt=PROMPT, output=tuple(output[:9]), **controls)])
    assert [again.draw(logits, later=step).token_ids[0] for step in range(11)] == output[9:]


def test_ten_thousand_biases_are_prepared_once() -> None:
    biases = tuple((token, 5.0 if token == 31_000 else -1.0) for token in range(30_000, 40_000))
    ranks = Ranks(even_shards(50_000, 2), [ask(logit_bias=biases)])
    logits = torch.zeros(1, 50_000)
    assert ranks.draw(logits).token_ids == (31_000,)
    (own,) = ranks.draws(1)
    prepared = own.controls.of(ranks.vocabulary(1), torch.device("cpu"))
    assert len(prepared.biases) == 10_000
    ranks.draw(logits, later=1)
    assert own.controls.of(ranks.vocabulary(1), torch.device("cpu")) is prepared


def test_ids_beyond_the_vocabulary_are_passed_over() -> None:
    one = ask(
        prompt=(900,),
        output=(901,),
        stop=(902,),
        min_tokens=9,
        logit_bias=((3, 1.0), (903, 9.0)),
        allowed_token_ids=(2, 3, 904),
        banned_token_ids=(905,),
        repetition_penalty=2.0,
    )
    for num_ranks in (1, 2):
        assert Ranks(even_shards(SIZE, num_ranks), [one]).draw(torch.zeros(1, SIZE)).token_ids == (3,)
