"""Runs all ranks of a model in one process, segment by segment, with the exchange done by hand."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from worker.attention.encode import build_encode_attention
from worker.attention.interface import Attend
from worker.attention.paged import build_paged_attention
from worker.kv_cache import KvCache
from worker.shards.folder import read_spec
from worker.shards.loading import load_shard
from worker.shards.shard import Activation, Shard


class Lockstep:
    """All ranks of a model.

    Args:
        folder: The model's folder.
        tp_size: Number of ranks of a stage.
        cuts: First layers of the stages, and the end of the last; one stage by default.
        block_size: Tokens of a KV block.
        num_blocks: Blocks of each rank's cache.
        dtype: Of weights and cache.
    """

    def __init__(
        self,
        folder: Path,
        tp_size: int,
        *,
        cuts: Sequence[int] = (),
        block_size: int = 4,
        num_blocks: int = 256,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = read_spec(folder)
        self.block_size, self.num_blocks = block_size, num_blocks
        self._dtype = dtype
        self._stages = [
            [
                load_shard(folder, self.spec, tp_rank=rank, tp_size=tp_size, layers=range(start, stop), dtype=dtype)
                for rank in range(tp_size)
            ]
            for start, stop in pairwise(cuts or (0, self.spec.num_layers))
        ]
        self._caches = [[self._cache(shard) for shard in stage] for stage in self._stages]

    @torch.inference_mode()
    def encode(self, inputs: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> list[Tensor]:
        """Return each input's last hidden states, [tokens, output_size]."""
        lengths = [len(ids) for ids in inputs]
        attend = build_encode_attention(
            lengths, causal=self.spec.causal, windows=self.spec.sliding_windows, dtype=self._dtype
        )
        attends = [[attend for _ in stage] for stage in self._stages]
        positions = [position for length in lengths for position in range(length)]
        hidden = self._forward(_flat(inputs), positions, attends, None if types is None else _flat(types))
        return list(hidden.split(lengths))

    @torch.inference_mode()
    def classify(self, inputs: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Return each input's raw scores, [inputs, labels]."""
        row = {"CLS": 0, "LAST": -1}[self.spec.classifier_pooling.name]
        rows = torch.stack([hidden[row] for hidden in self.encode(inputs, types)])
        return self._same([shard.classify(rows) for shard in self._stages[-1]])

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the whole vocabulary's logits for rows of hidden states."""
        return torch.cat([shard.logits(hidden) for shard in self._stages[-1]], -1)

    @torch.inference_mode()
    def step(
        self, tokens: Sequence[Sequence[int]], starts: Sequence[int], block_tables: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Advance sequences by some tokens over the paged cache and return those tokens' hidden states."""
        lengths = [len(ids) for ids in tokens]
        windows = self.spec.sliding_windows
        attends = [
            [
                build_paged_attention(
                    cache, num_tokens=lengths, starts=starts, block_tables=block_tables, windows=windows
                )
                for cache in stage
            ]
            for stage in self._caches
        ]
        positions = [start + place for start, length in zip(starts, lengths, strict=True) for place in range(length)]
        return list(self._forward(_flat(tokens), positions, attends, None).split(lengths))

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, *, chunk: int) -> list[list[int]]:
        """Return greedy tokens for each prompt: prefill of all prompts in chunks, then decode of all in one batch."""
        tables = self._block_tables([len(prompt) + num_tokens for prompt in prompts])
        last = self._prefill(prompts, tables, chunk)
        outputs = [[self._greedy(row)] for row in last]
        for step in range(1, num_tokens):
            starts = [len(prompt) + step - 1 for prompt in prompts]
            rows = self.step([output[-1:] for output in outputs], starts, tables)
            for output, row in zip(outputs, rows, strict=True):
                output.append(self._greedy(row[-1]))
        return outputs

    def _prefill(self, prompts: Sequence[Sequence[int]], tables: Sequence[Sequence[int]], chunk: int) -> list[Tensor]:
        last: dict[int, Tensor] = {}
        for start in range(0, max(map(len, prompts)), chunk):
            present = [place for place, prompt in enumerate(prompts) if start < len(prompt)]
            chunks = [prompts[place][start : start + chunk] for place in present]
            rows = self.step(chunks, [start] * len(present), [tables[place] for place in present])
            last.update({place: row[-1] for place, row in zip(present, rows, strict=True)})
        return [last[place] for place in range(len(prompts))]

    def _greedy(self, row: Tensor) -> int:
        return int(self.logits(row.unsqueeze(0)).argmax())

    def _block_tables(self, lengths: Sequence[int]) -> list[list[int]]:
        """Deal blocks to sequences in turns, the last ones first, so that no sequence's blocks are neighbours."""
        free = list(range(self.num_blocks))
        needed = [-(-length // self.block_size) for length in lengths]
        tables: list[list[int]] = [[] for _ in lengths]
        while any(len(table) < count for table, count in zip(tables, needed, strict=True)):
            for table, count in zip(tables, needed, strict=True):
                if len(table) < count:
                    table.append(free.pop())
        return tables

    def _forward(
        self,
        token_ids: list[int],
        positions: list[int],
        attends: Sequence[Sequence[Attend]],
        types: list[int] | None,
    ) -> Tensor:
        ids, places = torch.tensor(token_ids), torch.tensor(positions)
        type_ids = None if types is None else torch.tensor(types)
        acts = [shard.embed(ids, places, type_ids) for shard in self._stages[0]]
        _run_layers(self._stages[0], acts, attends[0])
        for before, stage, attend in zip(self._stages, self._stages[1:], attends[1:], strict=False):
            residual = self._same([shard.suspend(act) for shard, act in zip(before, acts, strict=True)])
            acts = [shard.resume(residual.clone(), places) for shard in stage]
            _run_layers(stage, acts, attend)
        return self._same([shard.finish(act) for shard, act in zip(self._stages[-1], acts, strict=True)])

    def _cache(self, shard: Shard) -> KvCache:
        return KvCache.allocate(
            layers=shard.layers,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            num_kv_heads=shard.num_kv_heads,
            head_dim=self.spec.head_dim,
            dtype=self._dtype,
        )

    @staticmethod
    def _same(results: list[Tensor]) -> Tensor:
        """Return what all ranks hold alike, to the bit."""
        assert all(torch.equal(result, results[0]) for result in results)
        return results[0]


def _run_layers(stage: Sequence[Shard], acts: Sequence[Activation], attends: Sequence[Attend]) -> None:
    ranks = list(zip(stage, acts, attends, strict=True))
    for layer in stage[0].layers:
        _exchange(acts, [shard.attention(layer, act, attend) for shard, act, attend in ranks])
        _exchange(acts, [shard.mlp(layer, act) for shard, act, _ in ranks])


def _exchange(acts: Sequence[Activation], partials: list[Tensor]) -> None:
    for act in acts:
        act.addends = tuple(partials)


def _flat(sequences: Sequence[Sequence[int]]) -> list[int]:
    return [entry for sequence in sequences for entry in sequence]
