"""Builds a rank's weights from slices of a checkpoint, by a family's names."""

from typing import Final

import torch
from torch import Tensor

from worker.shards.families.names import Section, WeightNames
from worker.shards.linear import DenseLinear, Linear
from worker.shards.norm import Norm
from worker.shards.partition import Partition
from worker.shards.slices import Slices
from worker.shards.spec import HeadKind, ModelSpec
from worker.shards.weights import EmbeddingWeights, HeadWeights, LayerWeights, ShardWeights

_WHOLE: Final = slice(None)


def assemble(spec: ModelSpec, names: WeightNames, partition: Partition, layers: range, slices: Slices) -> ShardWeights:
    """Take everything that a rank holds of some layers; layer 0 brings the embeddings, the last one the head."""
    assembly = _Assembly(spec, names, partition, slices)
    embedding = assembly.embedding() if layers.start == 0 else None
    return ShardWeights(
        embedding=embedding,
        layers=tuple(assembly.layer(layer) for layer in layers),
        head=assembly.head(embedding) if layers.stop == spec.num_layers else None,
    )


class _Assembly:
    def __init__(self, spec: ModelSpec, names: WeightNames, partition: Partition, slices: Slices) -> None:
        self._spec = spec
        self._names = names
        self._partition = partition
        self._slices = slices

    def embedding(self) -> EmbeddingWeights:
        spec, names = self._spec, self._names
        return EmbeddingWeights(
            tokens=self._table(names.word_embedding, spec.vocab_size, spec.embedding_size),
            positions=self._table(names.position_embedding, spec.num_positions, spec.hidden_size)
            if spec.num_positions
            else None,
            token_types=self._table(names.type_embedding, spec.num_token_types, spec.hidden_size)
            if spec.num_token_types
            else None,
            project_in=self._between_widths(names.project_in, spec.hidden_size, spec.embedding_size),
        )

    def layer(self, layer: int) -> LayerWeights:
        spec, names = self._spec, self._names
        place = names.layer.format(layer)
        heads = _widen(self._partition.heads, spec.head_dim)
        kv_heads = _widen(self._partition.kv_heads, spec.head_dim)
        num_inner, num_kv_inner = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        qkv = [
            (names.query, heads, num_inner),
            (names.key, kv_heads, num_kv_inner),
            (names.value, kv_heads, num_kv_inner),
        ]
        ups = [names.gate, names.up] if spec.gated_mlp else [names.up]
        columns = self._partition.columns
        return LayerWeights(
            attention_norm=self._attention_norm(layer),
            qkv=self._outputs(place, qkv, has_bias=spec.qkv_bias),
            qk_scale=self._qk_scale(place) if spec.qk_norm else None,
            out=self._inputs(place + names.out, heads, num_inner),
            out_bias=self._vector(place + names.out, spec.hidden_size) if spec.out_bias else None,
            mlp_norm=self._norm(place + (names.mlp_norm if spec.norm_first else names.attention_norm)),
            up=self._outputs(place, [(Section(name=up), columns, spec.ffn_size) for up in ups], has_bias=spec.mlp_bias),
            down=self._inputs(place + names.down, columns, spec.ffn_size),
            down_bias=self._vector(place + names.down, spec.hidden_size) if spec.mlp_bias else None,
        )

    def head(self, embedding: EmbeddingWeights | None) -> HeadWeights:
        spec, names = self._spec, self._names
        is_classifier = spec.head is HeadKind.CLASSIFIER
        width = spec.embedding_size
        return HeadWeights(
            norm=self._last_norm(),
            project_out=self._between_widths(names.project_out, width, spec.hidden_size),
            language=self._language_head(embedding) if spec.head is HeadKind.LANGUAGE else None,
            dense=self._whole(names.classifier_dense, width, width, has_bias=True)
            if is_classifier and spec.classifier_dense
            else None,
            classifier=self._whole(names.classifier, len(spec.labels), width, has_bias=spec.classifier_bias)
            if is_classifier
            else None,
        )

    def _attention_norm(self, layer: int) -> Norm | None:
        """Return what stands before a layer's attention; where norms come last, it ends the layer before."""
        spec, names = self._spec, self._names
        if spec.norm_first:
            return self._norm(names.layer.format(layer) + names.attention_norm)
        if layer:
            return self._norm(names.layer.format(layer - 1) + names.mlp_norm)
        return self._norm(names.embedding_norm) if spec.embedding_norm else None

    def _last_norm(self) -> Norm | None:
        spec, names = self._spec, self._names
        if not spec.norm_first:
            return self._norm(names.layer.format(spec.num_layers - 1) + names.mlp_norm)
        return self._norm(names.final_norm) if spec.final_norm else None

    def _norm(self, name: str) -> Norm:
        spec = self._spec
        if not spec.norm_affine:
            return Norm(spec.norm, spec.norm_eps)
        weight = self._slices.take(f"{name}.weight", (spec.hidden_size,), (_WHOLE,))
        bias = self._vector(name, spec.hidden_size) if spec.norm.has_bias else None
        return Norm(spec.norm, spec.norm_eps, weight, bias)

    def _qk_scale(self, place: str) -> Tensor:
        shape = (self._spec.head_dim,)
        query = self._slices.take(f"{place}{self._names.query_norm}.weight", shape, (_WHOLE,))
        key = self._slices.take(f"{place}{self._names.key_norm}.weight", shape, (_WHOLE,))
        heads, kv_heads = len(self._partition.heads), len(self._partition.kv_heads)
        return torch.cat((query.expand(heads, -1), key.expand(kv_heads, -1)))

    def _language_head(self, embedding: EmbeddingWeights | None) -> Linear:
        spec, rows = self._spec, _as_slice(self._partition.vocabulary)
        if spec.tied_head and embedding is not None:
            return DenseLinear(embedding.tokens[rows])
        name = self._names.word_embedding if spec.tied_head else self._names.language_head
        return DenseLinear(self._slices.take(f"{name}.weight", (spec.vocab_size, spec.embedding_size), (rows, _WHOLE)))

    def _between_widths(self, name: str, outputs: int, inputs: int) -> Linear | None:
        return None if outputs == inputs else self._whole(name, outputs, inputs, has_bias=False)

    def _whole(self, name: str, outputs: int, inputs: int, *, has_bias: bool) -> Linear:
        weight = self._table(name, outputs, inputs)
        return DenseLinear(weight, self._vector(name, outputs) if has_bias else None)

    def _table(self, name: str, rows: int, columns: int) -> Tensor:
        return self._slices.take(f"{name}.weight", (rows, columns), (_WHOLE, _WHOLE))

    def _vector(self, name: str, size: int, part: slice = _WHOLE) -> Tensor:
        return self._slices.take(f"{name}.bias", (size,), (part,))

    def _outputs(self, place: str, parts: list[tuple[Section, range, int]], *, has_bias: bool) -> Linear:
        """Take some outputs of several projections as one: (where, which outputs, of how many)."""
        weights, biases = [], []
        for section, rows, total in parts:
            start = section.index * total + rows.start
            part, name, size = slice(start, start + len(rows)), place + section.name, total * section.count
            weights.append(self._matrix(name, (size, self._spec.hidden_size), (part, _WHOLE)))
            if has_bias:
                biases.append(self._vector(name, size, part))
        return _projection(_join(weights), _join(biases) if biases else None)

    def _inputs(self, name: str, columns: range, total: int) -> Linear:
        """Take some inputs of a projection; its bias is the receiver's to add."""
        return _projection(self._matrix(name, (self._spec.hidden_size, total), (_WHOLE, _as_slice(columns))))

    def _matrix(self, name: str, shape: tuple[int, int], index: tuple[slice, slice]) -> Tensor:
        """Take a part of a projection's weight as [outputs, inputs], however it is stored."""
        if not self._names.transposed:
            return self._slices.take(f"{name}.weight", shape, index)
        return self._slices.take(f"{name}.weight", shape[::-1], index[::-1]).t()


def _projection(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Keep a weight [outputs, inputs] row by row; on CPUs column by column: products of few rows are 10 % faster so."""
    kept = weight.t().contiguous().t() if weight.device.type == "cpu" else weight.contiguous()
    return DenseLinear(kept, bias)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _widen(units: range, width: int) -> range:
    return range(units.start * width, units.stop * width)


def _as_slice(part: range) -> slice:
    return slice(part.start, part.stop)
