"""A Llama's forward in plain torch and float32, whole on one device: what the ranks' outputs are checked against.

Written apart from the product on purpose; it shares nothing with it but the weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from bench.gpu.shapes import VOCABULARY_SIZE, ModelShape
from bench.gpu.weights import MadeSlices

_THETA = 500_000.0
_EPS = 1e-5
_ALL = slice(None)


class PlainLlama:
    """Runs whole inputs of made-up models.

    Args:
        shape: The model's.
        num_layers: Of it.
        slices: Give its weights in float32.
        device: Where they are.
    """

    def __init__(self, shape: ModelShape, num_layers: int, slices: MadeSlices, device: torch.device | str) -> None:
        self._shape = shape
        self._num_layers = num_layers
        self._slices = slices
        self._device = device

    @torch.inference_mode()
    def last_states(self, token_ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Return the last token's normed hidden state of each input, [inputs, hidden] float32 on the CPU.

        Args:
            token_ids: The inputs, one after another.
            lengths: Tokens of each.
        """
        shape = self._shape
        table = self._weight("embed_tokens", VOCABULARY_SIZE, shape.hidden)
        hidden = F.embedding(torch.tensor(token_ids, device=self._device), table)
        places = torch.cat([torch.arange(length, device=self._device) for length in lengths])
        for layer in range(self._num_layers):
            place = f"layers.{layer}."
            hidden = hidden + self._attend(place, _norm(hidden), places, lengths)
            hidden = hidden + self._feed_forward(place, _norm(hidden))
        ends = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        return _norm(hidden[ends]).cpu()

    def _attend(self, place: str, hidden: Tensor, places: Tensor, lengths: Sequence[int]) -> Tensor:
        shape = self._shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        query, key, value = (
            (hidden @ self._weight(f"{place}self_attn.{name}_proj", size, shape.hidden).t()).view(
                len(hidden), -1, shape.head_dim
            )
            for name, size in (("q", width), ("k", kv_width), ("v", kv_width))
        )
        query, key = (_turn(heads, places) for heads in (query, key))
        group = shape.heads // shape.kv_heads
        key, value = (heads.repeat_interleave(group, 1) for heads in (key, value))
        inputs = zip(*(torch.split_with_sizes(heads, list(lengths)) for heads in (query, key, value)), strict=True)
        attended = [
            F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True)
            for q, k, v in inputs
        ]
        together = torch.cat([one.transpose(0, 1).reshape(-1, width) for one in attended])
        return together @ self._weight(f"{place}self_attn.o_proj", shape.hidden, width).t()

    def _feed_forward(self, place: str, hidden: Tensor) -> Tensor:
        shape = self._shape
        gate = F.silu(hidden @ self._weight(f"{place}mlp.gate_proj", shape.ffn, shape.hidden).t())
        gate *= hidden @ self._weight(f"{place}mlp.up_proj", shape.ffn, shape.hidden).t()
        return gate @ self._weight(f"{place}mlp.down_proj", shape.hidden, shape.ffn).t()

    def _weight(self, name: str, outputs: int, inputs: int) -> Tensor:
        return self._slices.take(f"{name}.weight", (outputs, inputs), (_ALL, _ALL))


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Return ‖found − reference‖ / ‖reference‖; infinite where a number is none."""
    error = float((found.float() - reference).norm() / reference.norm())
    return error if error == error else float("inf")  # noqa: PLR0124 - NaN alone differs from itself


def _norm(hidden: Tensor) -> Tensor:
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + _EPS)


def _turn(heads: Tensor, places: Tensor) -> Tensor:
    """Turn [tokens, heads, head_dim] by rotary positions; dimension i pairs with i + head_dim / 2."""
    half = heads.shape[-1] // 2
    frequencies = _THETA ** (-torch.arange(half, device=heads.device, dtype=torch.float32) / half)
    angles = (places.unsqueeze(-1).float() * frequencies).unsqueeze(1)
    first, second = heads[..., :half], heads[..., half:]
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), -1)
