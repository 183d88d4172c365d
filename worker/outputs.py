"""What an encode batch gives: vectors, the classification head's outputs, likelihoods of given tokens."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import torch
from torch import Tensor

from liger.domain import ClassifyOutput, Pooling, PoolOutput, ScoreOutput
from liger.schedule import ItemResult, Logprob
from worker.inputs import BatchInputs
from worker.sampling.likelihood import joined_likelihood, shard_likelihood
from worker.shards.shard import Shard

_SCORED_AT_ONCE: Final = 256  # tokens whose logits are held at once: each is a row as wide as the vocabulary


class EncodeOutputs:
    """The outputs of one encode batch, made from its hidden states.

    Args:
        shard: This rank's.
        inputs: The batch.
        hidden: [num_tokens, output_size], after the last norm; equal on all ranks.
    """

    def __init__(self, shard: Shard, inputs: BatchInputs, hidden: Tensor) -> None:
        ends = tuple(accumulate(inputs.lengths))
        self._spans = [range(end - length, end) for end, length in zip(ends, inputs.lengths, strict=True)]
        self._outputs = inputs.outputs
        self._vectors = [
            self._vector(shard, output, hidden[span.start : span.stop])
            for output, span in zip(inputs.outputs, self._spans, strict=True)
        ]
        self._scored = [
            place
            for output, span in zip(inputs.outputs, self._spans, strict=True)
            if isinstance(output, ScoreOutput)
            for place in span[output.score_from - 1 : -1]
        ]
        self._targets = inputs.token_ids[[place + 1 for place in self._scored]]
        self.candidates = self._candidates(shard, hidden)  # what this rank sends in the gather

    @property
    def needs_candidates(self) -> bool:
        """Whether the results are made from all ranks' candidates; else the gather brings nothing."""
        return bool(self._scored)

    def results(self, parts: Sequence[Tensor]) -> tuple[ItemResult, ...]:
        """Return one result an input, from all ranks' candidates in rank order if they are needed."""
        likelihoods = iter(joined_likelihood(parts, self._targets.tolist()) if self._scored else ())
        return tuple(
            ItemResult(
                values=tuple(vector.tolist()) if vector is not None else (),
                logprobs=_take(likelihoods, len(span) - output.score_from) if isinstance(output, ScoreOutput) else (),
            )
            for output, span, vector in zip(self._outputs, self._spans, self._vectors, strict=True)
        )

    def _vector(self, shard: Shard, output: object, hidden: Tensor) -> Tensor | None:
        match output:
            case PoolOutput():
                return _pool(hidden, output)
            case ClassifyOutput():
                row = hidden[:1] if shard.spec.classifier_pooling is Pooling.CLS else hidden[-1:]
                return shard.classify(row).squeeze(0)
            case _:
                return None

    def _candidates(self, shard: Shard, hidden: Tensor) -> Tensor:
        if not self._scored:
            return torch.zeros(0, 4)
        rows = range(shard.vocab_start, shard.vocab_end)
        spans = [slice(first, first + _SCORED_AT_ONCE) for first in range(0, len(self._scored), _SCORED_AT_ONCE)]
        return torch.cat(
            [shard_likelihood(shard.logits(hidden[self._scored[span]]), self._targets[span], rows) for span in spans]
        )


def _pool(hidden: Tensor, output: PoolOutput) -> Tensor:
    """Return one vector of an input's hidden states [tokens, output_size], in float32."""
    match output.pooling:
        case Pooling.MEAN:
            vector = hidden.to(torch.float32).mean(0)
        case Pooling.CLS:
            vector = hidden[0].to(torch.float32)
        case Pooling.LAST:
            vector = hidden[-1].to(torch.float32)
    if output.dimensions:
        vector = vector[: output.dimensions]
    return torch.nn.functional.normalize(vector, dim=0) if output.normalize else vector


def _take(logprobs: Iterator[Logprob], count: int) -> tuple[Logprob, ...]:
    return tuple(islice(logprobs, count))
