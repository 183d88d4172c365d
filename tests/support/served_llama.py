"""A tiny Llama with a tokenizer, served by a real cluster, and what transformers makes of the same prompts."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from liger.client import AsyncClient, AsyncGenerateStream
from liger.cluster_state import GroupState, read_cluster
from liger.local_cluster import ClusterSpec, GroupSpec
from liger.rpc.channel import open_channel
from tests.support.tiny_models import make_model
from tests.unit.gateway.folders import byte_level

NAME: Final = "m"
VOCAB_SIZE: Final = 403  # divided by neither 2 nor 3; a few ids more than the tokenizer has
MAX_LENGTH: Final = 640
BLOCK_SIZE: Final = 8
POLL_S: Final = 0.01  # between two looks, so that those who look leave the machine to those who work
NUM_LAYERS: Final = 3
_KV_HEADS, _HEAD_DIM = 4, 4
_SETTINGS: Final = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 67,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_DIM,
    "max_position_embeddings": MAX_LENGTH,
}

Tokens = tuple[int, ...]


def make_served_llama(folder: Path, **changes: Any) -> PreTrainedModel:
    """Make the model, with heads and vocabulary that 3 ranks cannot share evenly, and its tokenizer in a folder."""
    model = make_model(folder, "LlamaForCausalLM", {**_SETTINGS, **changes})
    (folder / "tokenizer.json").write_text(byte_level().to_str(), encoding="utf-8")
    return model


def cluster_spec(
    folder: Path,
    log_folder: Path,
    *,
    tp_size: int = 2,
    pp_size: int = 1,
    num_blocks: int = 4096,
    controller: Mapping[str, str] | None = None,
    gateway: Mapping[str, str] | None = None,
    **worker: str,
) -> ClusterSpec:
    """Return a cluster of one group whose fullest rank holds so many KV blocks; ranks check every schedule."""
    heads = -(-_KV_HEADS // tp_size)
    block_bytes = 2 * -(-NUM_LAYERS // pp_size) * BLOCK_SIZE * heads * _HEAD_DIM * 4
    group = GroupSpec(
        model_folder=folder,
        model_name=NAME,
        tp_size=tp_size,
        pp_size=pp_size,
        options={
            "kv-cache-gib": f"{(num_blocks + 0.5) * block_bytes / 2**30:.12f}",
            "block-size": str(BLOCK_SIZE),
            "profile-limit-s": "3",
            "check-schedules": "",
            **{name.replace("_", "-"): value for name, value in worker.items()},
        },
    )
    return ClusterSpec(
        groups=(group,),
        controller_options=controller or {},
        gateway_options=gateway or {},
        threads_per_worker=1,
        log_folder=log_folder,
    )


async def state_of(controller: str) -> GroupState:
    """Return the one group's state."""
    async with open_channel(controller) as channel:
        return (await read_cluster(channel, 60)).groups[0]


async def state_when(controller: str, holds: Callable[[GroupState], bool], limit_s: float = 60.0) -> GroupState:
    """Ask for the one group's state until something holds of it, and return it."""
    async with asyncio.timeout(limit_s), open_channel(controller) as channel:
        while not holds(state := (await read_cluster(channel, limit_s)).groups[0]):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(POLL_S)
    return state


async def check_nothing_is_left(controller: str) -> GroupState:
    """See that all is given back once nothing waits or runs, and that no epoch had to begin anew."""
    state = await state_when(controller, lambda each: each.num_used_blocks + each.num_in_flight == 0)
    assert (state.num_waiting, state.num_running, state.num_waiting_tokens) == (0, 0, 0)
    assert state.epoch == 1
    return state


async def outputs(stream: AsyncGenerateStream) -> list[Tokens]:
    """Return each sample's tokens, having seen that every event comes in its place and just once."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    kinds, ended = [], []
    async for event in stream.events():
        kinds.append(type(event).__name__)
        if kinds[-1] == "Delta":
            assert event.index not in ended
            found[event.index] += event.token_ids
        elif kinds[-1] == "Finished":
            ended.append(event.index)
            assert event.num_tokens == len(found[event.index])
    assert kinds[0] == "Started"
    assert kinds[-1] == "Summary"
    assert {"Started", "Summary"}.isdisjoint(kinds[1:-1])
    assert sorted(ended) == list(range(len(ended)))
    assert sorted(found) == sorted(ended)
    assert stream.usage.completion_tokens == sum(map(len, found.values()))
    return [tuple(found[index]) for index in sorted(found)]


async def generate(client: AsyncClient, prompt: Sequence[int], **options: Any) -> list[Tokens]:
    """Generate to the end; see `outputs`."""
    return await outputs(client.generate(NAME, prompt, **options))


class Reference:
    """Greedy tokens as transformers draws them; prompts of one length in one batch, so that nothing is padded."""

    def __init__(self, model: PreTrainedModel, num_tokens: int) -> None:
        self._model = model
        self._num_tokens = num_tokens
        self._known: dict[Tokens, Tokens] = {}

    def learn(self, prompts: Collection[Tokens]) -> None:
        """Generate for prompts that are not known yet."""
        by_length: defaultdict[int, list[Tokens]] = defaultdict(list)
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                by_length[len(prompt)].append(prompt)
        for length, batch in by_length.items():
            ids = torch.tensor(batch)
            with torch.inference_mode():
                whole = self._model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=min(self._num_tokens, MAX_LENGTH - length),
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            self._known.update(zip(batch, map(tuple, whole[:, length:].tolist()), strict=True))

    def tokens(self, prompt: Tokens, max_tokens: int, stop_token_ids: Collection[int] = ()) -> Tokens:
        """Return what follows a prompt, up to its length or the first stop token."""
        self.learn([prompt])
        found = self._known[prompt][:max_tokens]
        ends = [place for place, token in enumerate(found) if token in stop_token_ids]
        return found[: ends[0] + 1] if ends else found
