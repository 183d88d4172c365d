"""What batches give besides drawn tokens: vectors, the classification head's outputs, likelihoods of given tokens.

Nothing here waits for the device: `read` begins copies to the host, and what it returns is called when they have ended.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import torch
from torch import Tensor

from liger.domain import ScoreOutput
from liger.schedule import ItemResult, Logprob
from worker.inputs import BatchInputs, Prediction
from worker.pooling import Vectors
from worker.sampling.likelihood import Likelihoods, likelihood_width, shard_likelihood
from worker.sampling.transfers import Fetch, Stage, stage_here
from worker.shards.shard import Shard

_NUM_RIVALS: Final = 1  # told of each scored token
_SCORED_AT_ONCE: Final = 256  # tokens whose logits are held at once: each is a row as wide as the vocabulary


class EncodeOutputs:
    """The outputs of one encode batch, made from its hidden states.

    Args:
        shard: This rank's.
        inputs: The batch.
        hidden: [num_tokens, output_size], after the last norm; equal on all ranks.
        stage: Brings numbers to the device.
    """

    def __init__(self, shard: Shard, inputs: BatchInputs, hidden: Tensor, stage: Stage = stage_here) -> None:
        ends = tuple(accumulate(inputs.lengths))
        spans = [range(end - length, end) for end, length in zip(ends, inputs.lengths, strict=True)]
        assert inputs.token_ids is not None, "encode batches bring their tokens"
        self._counts = [  # tokens that each input has scored
            max(0, len(span) - output.score_from) if isinstance(output, ScoreOutput) else 0
            for output, span in zip(inputs.outputs, spans, strict=True)
        ]
        self._vectors = Vectors(shard, inputs.outputs, spans, hidden, stage)
        scored = [place for span, count in zip(spans, self._counts, strict=True) for place in span[-1 - count : -1]]
        self._num_scored = len(scored)
        places = stage(scored, torch.int64) if scored else hidden.new_zeros(0, dtype=torch.int64)
        self._targets = inputs.token_ids[places + 1]
        self.candidates = _score(shard, hidden, places, self._targets, _NUM_RIVALS)  # what this rank sends

    @property
    def needs_candidates(self) -> bool:
        """Whether the results are made from all ranks' candidates; else the gather brings nothing."""
        return self._num_scored > 0

    def read(self, parts: Sequence[Tensor], fetch: Fetch) -> Callable[[], tuple[ItemResult, ...]]:
        """Begin to copy to the host; what is returned gives one result an input.

        Args:
            parts: All ranks' candidates in rank order, if they are needed.
            fetch: Begins copies.
        """
        read_vectors = self._vectors.read(fetch)
        read_scores = self._read_scores(parts, fetch) if self._num_scored else tuple

        def build() -> tuple[ItemResult, ...]:
            vectors, scores = read_vectors(), iter(read_scores())
            return tuple(
                ItemResult(values=vectors.get(item, ()), logprobs=_take(scores, count))
                for item, count in enumerate(self._counts)
            )

        return build

    def _read_scores(self, parts: Sequence[Tensor], fetch: Fetch) -> Callable[[], tuple[Logprob, ...]]:
        likelihoods = Likelihoods(torch.stack(list(parts)), (_NUM_RIVALS,) * self._num_scored)
        targets, read = fetch(self._targets), likelihoods.read(fetch)
        return lambda: read(targets.tolist())


class PromptOutputs:
    """Likelihoods of prompts' own tokens, given by the chunks of a prefill batch.

    Args:
        shard: This rank's.
        predictions: What the chunks predict.
        hidden: [num_tokens, output_size], after the last norm; equal on all ranks.
        stage: Brings numbers to the device.
    """

    def __init__(
        self, shard: Shard, predictions: Sequence[Prediction], hidden: Tensor, stage: Stage = stage_here
    ) -> None:
        size = shard.spec.vocab_size
        self._token_ids = [token for one in predictions for token in one.targets.token_ids]
        self._wanted = [min(one.targets.num_rivals, size) for one in predictions for _ in one.targets.token_ids]
        num_rivals = max(self._wanted, default=0)
        self.payload = hidden.new_zeros(0, dtype=torch.float32)  # what this rank sends
        if self._token_ids:
            rows = [one.first + offset for one in predictions for offset in range(len(one.targets.token_ids))]
            places, targets = stage(rows + self._token_ids, torch.int64).view(2, -1)
            self.payload = _score(shard, hidden, places, targets, num_rivals).flatten()

    def read(self, parts: Sequence[Tensor], fetch: Fetch) -> Callable[[], tuple[Logprob, ...]]:
        """Begin to copy to the host; what is returned gives the likelihood of each predicted token.

        Args:
            parts: All ranks' payloads in rank order.
            fetch: Begins copies.
        """
        token_ids = self._token_ids
        if not token_ids:
            return tuple
        table = torch.stack(list(parts)).view(len(parts), len(token_ids), -1)
        read = Likelihoods(table, self._wanted).read(fetch)
        return lambda: read(token_ids)


def _score(shard: Shard, hidden: Tensor, places: Tensor, targets: Tensor, num_rivals: int) -> Tensor:
    """Return this rank's part in the likelihoods of tokens that follow some rows of hidden states."""
    if not len(places):
        return hidden.new_zeros(0, likelihood_width(num_rivals), dtype=torch.float32)
    rows = range(shard.vocab_start, shard.vocab_end)
    pieces = zip(torch.split(places, _SCORED_AT_ONCE), torch.split(targets, _SCORED_AT_ONCE), strict=True)
    return torch.cat(
        [shard_likelihood(shard.logits(hidden.index_select(0, own)), ids, rows, num_rivals) for own, ids in pieces]
    )


def _take(logprobs: Iterator[Logprob], count: int) -> tuple[Logprob, ...]:
    return tuple(islice(logprobs, count))
