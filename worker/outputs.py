"""What batches give besides drawn tokens: vectors, the classification head's outputs, likelihoods of given tokens."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import torch
from torch import Tensor

from liger.domain import ClassifyOutput, Pooling, PoolOutput, ScoreOutput
from liger.schedule import ItemResult, Logprob
from worker.inputs import BatchInputs, Prediction
from worker.sampling.likelihood import joined_likelihood, likelihood_width, shard_likelihood
from worker.shards.shard import Shard

_NUM_RIVALS: Final = 1  # told of each scored token
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
        likelihoods = iter(self._likelihoods(parts) if self._scored else ())
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
        return _score(shard, hidden, self._scored, self._targets, _NUM_RIVALS)

    def _likelihoods(self, parts: Sequence[Tensor]) -> tuple[Logprob, ...]:
        return joined_likelihood(torch.stack(list(parts)), self._targets.tolist(), (_NUM_RIVALS,) * len(self._scored))


class PromptOutputs:
    """Likelihoods of prompts' own tokens, given by the chunks of a prefill batch.

    Args:
        shard: This rank's.
        predictions: What the chunks predict.
        hidden: [num_tokens, output_size], after the last norm; equal on all ranks.
    """

    def __init__(self, shard: Shard, predictions: Sequence[Prediction], hidden: Tensor) -> None:
        size = shard.spec.vocab_size
        self._token_ids = [token for one in predictions for token in one.targets.token_ids]
        self._wanted = [min(one.targets.num_rivals, size) for one in predictions for _ in one.targets.token_ids]
        self._num_rivals = max(self._wanted, default=0)
        places = [one.first + offset for one in predictions for offset in range(len(one.targets.token_ids))]
        targets = torch.tensor(self._token_ids, dtype=torch.int64, device=hidden.device)
        self.payload = _score(shard, hidden, places, targets, self._num_rivals).flatten()  # what this rank sends

    def results(self, parts: Sequence[Tensor]) -> tuple[Logprob, ...]:
        """Return the likelihood of each predicted token, from all ranks' payloads in rank order."""
        if not self._token_ids:
            return ()
        table = torch.stack(list(parts)).view(len(parts), len(self._token_ids), -1)
        return joined_likelihood(table, self._token_ids, self._wanted)


def _score(shard: Shard, hidden: Tensor, places: Sequence[int], targets: Tensor, num_rivals: int) -> Tensor:
    """Return this rank's part in the likelihoods of tokens that follow some rows of hidden states."""
    if not places:
        return hidden.new_zeros(0, likelihood_width(num_rivals), dtype=torch.float32)
    rows = range(shard.vocab_start, shard.vocab_end)
    spans = [slice(first, first + _SCORED_AT_ONCE) for first in range(0, len(places), _SCORED_AT_ONCE)]
    return torch.cat(
        [shard_likelihood(shard.logits(hidden[places[span]]), targets[span], rows, num_rivals) for span in spans]
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
