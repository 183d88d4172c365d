"""Draws tokens as the ranks of a group would, each from its own part of the vocabulary."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liger.domain import Sampling
from liger.schedule import Logprob, SequenceStart
from worker.sampling.controls import Vocabulary
from worker.sampling.draw import Draw, Drawn, count_drawn
from worker.sampling.sampler import Candidates, Sampler
from worker.sampling.transfers import Fetch, fetch_here
from worker.sequences import SequenceTable
from worker.shards.partition import split


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A sequence that a token is drawn for."""

    sampling: Sampling
    prompt: tuple[int, ...] = (0,)
    output: tuple[int, ...] = ()
    min_tokens: int = 0
    stop: tuple[int, ...] = ()
    mask: Tensor | None = None
    sample: int = 0
    position: int | None = None  # after prompt and output by default

    def start(self, row: int) -> SequenceStart:
        return SequenceStart(
            row=row,
            sampling=self.sampling,
            sample=self.sample,
            num_prompt_tokens=len(self.prompt),
            min_tokens=self.min_tokens,
            stop_token_ids=self.stop,
            output_token_ids=self.output,
            prompt_token_ids=self.prompt,
        )

    @property
    def place(self) -> int:
        return len(self.prompt) + len(self.output) if self.position is None else self.position


def ask(**sampling: object) -> Ask:
    """Return a sequence that is drawn so; `prompt`, `output` and the like are the sequence's."""
    own = {name: sampling.pop(name) for name in list(sampling) if name in Ask.__dataclass_fields__}
    return Ask(sampling=Sampling(**sampling), **own)


def even_shards(size: int, num_ranks: int) -> list[range]:
    return [split(size, num_ranks, rank) for rank in range(num_ranks)]


@dataclass(frozen=True)
class Outcome:
    """What was drawn, on the host."""

    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]

    @classmethod
    def of(cls, drawn: Drawn, fetch: Fetch = fetch_here) -> "Outcome":
        return cls(*drawn.read(fetch)())


class _AskedError(Exception):
    """Ends a choice where it asks for more."""


class Ranks:
    """All ranks of a group, with a sequence table each; `sampler` has what samplers are made with."""

    def __init__(self, shards: Sequence[range], asks: Sequence[Ask], fetch: Fetch = fetch_here, **sampler: Any) -> None:
        self._shards = shards
        self._fetch = fetch
        self._sampler = sampler
        self._asks = asks
        self.num_asked = 0  # numbers that each rank sent in second exchanges
        self._tables = [SequenceTable(len(asks)) for _ in shards]
        for table in self._tables:
            for row, one in enumerate(asks):
                table.start(one.start(row))

    def draw(self, logits: Tensor, *, later: int = 0) -> Outcome:
        """Draw a token for each sequence, from whole logits [sequences, vocabulary]; all ranks must agree."""
        drawn = self._choose([self._candidates(rank, logits, later) for rank in range(len(self._shards))])
        outcomes = [Outcome.of(one, self._fetch) for one in drawn]
        assert all(one == outcomes[0] for one in outcomes)
        for rank in range(len(self._shards)):
            count_drawn(self.draws(rank, later), drawn[0])
        return outcomes[0]

    def payload(self, logits: Tensor) -> Tensor:
        """Return what the first rank would send."""
        return self._candidates(0, logits).payload

    def draws(self, rank: int = 0, later: int = 0) -> list[Draw]:
        return [self._tables[rank].draw(row, one.place + later) for row, one in enumerate(self._asks)]

    def vocabulary(self, rank: int) -> Vocabulary:
        return Vocabulary(self._shards[rank], self._shards[-1].stop)

    def _candidates(self, rank: int, logits: Tensor, later: int = 0) -> Candidates:
        shard, masks = self._shards[rank], [one.mask for one in self._asks]
        part = logits[:, shard.start : shard.stop].clone()
        return Sampler(self._shards, rank, **self._sampler).candidates(part, self.draws(rank, later), masks)

    def _choose(self, candidates: Sequence[Candidates]) -> list[Drawn]:
        parts = [one.payload for one in candidates]
        assert len({len(part) for part in parts}) == 1
        rests: list[Tensor] = []

        def collect(rest: Tensor) -> Sequence[Tensor]:
            rests.append(rest)
            raise _AskedError

        for one in candidates:
            with suppress(_AskedError):
                one.choose(parts, collect)
        assert len(rests) in {0, len(candidates)}
        self.num_asked += len(rests[0]) if rests else 0
        return [one.choose(parts, lambda _: rests) for one in candidates]


def draw_on(num_ranks: int, logits: Tensor, asks: Sequence[Ask]) -> Outcome:
    """Draw one token a sequence on evenly split ranks."""
    return Ranks(even_shards(logits.shape[-1], num_ranks), asks).draw(logits)


def draw_often(count: int, logits: Tensor, one: Ask, num_ranks: int = 2) -> Tensor:
    """Draw `count` tokens from the same logits [vocabulary] at different positions; return how often each came."""
    first = Ranks(even_shards(len(logits), num_ranks), [one])
    (base,) = first.draws()
    candidates = []
    for rank, shard in enumerate(even_shards(len(logits), num_ranks)):
        (own,) = first.draws(rank)
        draws = [
            Draw(
                sampling=own.sampling,
                sample=own.sample,
                position=base.position + place,
                banned=own.banned,
                controls=own.controls,
            )
            for place in range(count)
        ]
        part = logits[shard.start : shard.stop].expand(count, -1).clone()
        sampler = Sampler(even_shards(len(logits), num_ranks), rank)
        candidates.append(sampler.candidates(part, draws, [one.mask] * count))
    drawn = first._choose(candidates)[0]
    return torch.bincount(drawn.tokens, minlength=len(logits))
