"""All ranks together give what transformers gives, for every architecture and for ranks that do not divide anything."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.lockstep import Lockstep
from tests.support.tiny_models import BASES, CLASSIFIERS, DECODERS, VOCAB_SIZE, MakeModel, token_ids

INPUTS = token_ids(17, 5, 20, 5, 1)
TYPES = [[int(place > 2) for place in range(len(ids))] for ids in INPUTS]

ranks = pytest.mark.parametrize("tp_size", [1, 2, 3, 4])


@torch.inference_mode()
def reference(model: PreTrainedModel, output: str, **columns: list[list[int]]) -> list[Tensor]:
    rows = [{name: torch.tensor([column[place]]) for name, column in columns.items()} for place in range(len(INPUTS))]
    return [model(**row)[output][0] for row in rows]


def assert_same_direction(got: Tensor, want: Tensor) -> None:
    assert torch.nn.functional.cosine_similarity(got, want, dim=-1).min() >= 0.9999


@ranks
@pytest.mark.parametrize("name", DECODERS)
def test_logits_equal_those_of_transformers(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    ranks = Lockstep(folder, tp_size)
    got = [ranks.logits(hidden) for hidden in ranks.encode(INPUTS)]
    assert got[0].shape[-1] == VOCAB_SIZE
    for mine, theirs in zip(got, reference(model, "logits", input_ids=INPUTS), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


@ranks
@pytest.mark.parametrize("name", [*BASES, "bert-classifier", "roberta-classifier"])
def test_hidden_states_equal_those_of_transformers(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    base = model.base_model if name.endswith(("masked", "classifier")) else model
    for mine, theirs in zip(
        Lockstep(folder, tp_size).encode(INPUTS), reference(base, "last_hidden_state", input_ids=INPUTS), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
        assert_same_direction(mine, theirs)


@ranks
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_equal_those_of_transformers(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    want = torch.stack(reference(model, "logits", input_ids=INPUTS))
    torch.testing.assert_close(Lockstep(folder, tp_size).classify(INPUTS), want, rtol=0, atol=1e-4)


@ranks
@pytest.mark.parametrize("name", ["bert-base", "roberta-base"])
def test_token_types_are_added(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    got = Lockstep(folder, tp_size).encode(INPUTS, TYPES)
    want = reference(model, "last_hidden_state", input_ids=INPUTS, token_type_ids=TYPES)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    assert not torch.allclose(got[0], Lockstep(folder, tp_size).encode(INPUTS)[0], atol=1e-3)


@pytest.mark.parametrize("tp_size", [5, 7, 9])
def test_every_rank_may_hold_a_single_query_head(tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model("llama")
    ranks = Lockstep(folder, tp_size)
    for mine, theirs in zip(ranks.encode(INPUTS), reference(model, "logits", input_ids=INPUTS), strict=True):
        torch.testing.assert_close(ranks.logits(mine), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "opt-350m", "qwen2-windows"])
def test_stages_of_layers_give_what_the_whole_gives(name: str, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    whole = Lockstep(folder, 2)
    stages = Lockstep(folder, 2, cuts=(0, 1, 3))
    for one, other in zip(whole.encode(INPUTS), stages.encode(INPUTS), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(whole.logits(one), stages.logits(other))
    assert whole.generate(INPUTS, 4, chunk=8) == stages.generate(INPUTS, 4, chunk=8)
