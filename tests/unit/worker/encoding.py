"""Encode batches over a made-up head, for tests of what becomes of hidden states."""

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from liger.domain import ClassifyOutput, Pooling, PoolOutput, ScoreOutput
from liger.schedule import ItemResult, Logprob
from worker.inputs import Prediction
from worker.outputs import EncodeOutputs, PromptOutputs
from worker.sampling.transfers import Fetch, Stage, fetch_here, stage_here
from worker.sequences import PromptTargets

VOCABULARY, WIDTH = 60, 16
LENGTHS = (3, 1, 5, 2, 4, 6, 3)
OUTPUTS = (
    PoolOutput(pooling=Pooling.MEAN, normalize=False),
    PoolOutput(pooling=Pooling.CLS, normalize=False),
    PoolOutput(pooling=Pooling.LAST, normalize=True, dimensions=5),
    ClassifyOutput(),
    PoolOutput(pooling=Pooling.MEAN, normalize=True, dimensions=WIDTH),
    ScoreOutput(score_from=2),
    ScoreOutput(score_from=1),
)
PREDICTIONS = (
    Prediction(0, PromptTargets((3, 9, 50), 2)),
    Prediction(7, PromptTargets((1,), 0)),
    Prediction(9, PromptTargets((59, 58, 0, 7), 4)),
)


class Head:
    """What a shard has of a head: two ranks share the vocabulary, all have the classifier."""

    def __init__(self, rank: int, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator().manual_seed(2)
        table, classes = (torch.randn(size, WIDTH, generator=generator) for size in (VOCABULARY, 3))
        self.vocab_start, self.vocab_end = rank * VOCABULARY // 2, (rank + 1) * VOCABULARY // 2
        self.spec = SimpleNamespace(vocab_size=VOCABULARY, classifier_pooling=Pooling.CLS)
        self._table, self._classes = table[self.vocab_start : self.vocab_end].to(device), classes.to(device)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self._table.T

    def classify(self, hidden: Tensor) -> Tensor:
        return hidden @ self._classes.T


@cache
def head(rank: int, device: torch.device) -> Any:
    return Head(rank, device)


def hidden_states() -> Tensor:
    return torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(1))


def encode(
    hidden: Tensor, stage: Stage = stage_here, fetch: Fetch = fetch_here
) -> Callable[[], tuple[ItemResult, ...]]:
    """Return what reads the results of an encode batch with one input for each of OUTPUTS."""
    token_ids = torch.arange(sum(LENGTHS), device=hidden.device)
    inputs: Any = SimpleNamespace(lengths=LENGTHS, outputs=OUTPUTS, token_ids=token_ids)
    ranks = [EncodeOutputs(head(rank, hidden.device), inputs, hidden, stage) for rank in range(2)]
    return ranks[0].read([one.candidates for one in ranks], fetch)


def predict(
    hidden: Tensor,
    stage: Stage = stage_here,
    fetch: Fetch = fetch_here,
    predictions: Sequence[Prediction] = PREDICTIONS,
) -> Callable[[], tuple[Logprob, ...]]:
    """Return what reads the likelihoods of prompts."""
    ranks = [PromptOutputs(head(rank, hidden.device), predictions, hidden, stage) for rank in range(2)]
    return ranks[0].read([one.payload for one in ranks], fetch)
