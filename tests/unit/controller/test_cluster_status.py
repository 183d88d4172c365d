"""What a controller tells of its groups, from its own values to those of whoever asks."""

from dataclasses import replace

from liger.cluster_state import GroupPhase, fetch_cluster
from liger.domain import BatchKind, Task
from liger.rpc.model_card import from_card
from liger.v1 import controller_pb2
from liger.views import DecodeChoice, TaskShare, WindowMix
from tests.support.in_process import CARD

MIXES = (
    WindowMix(batches=(BatchKind.DECODE,), share=0.6),
    WindowMix(batches=(BatchKind.ENCODE, BatchKind.DECODE), share=0.3),
)
SHARES = (
    TaskShare(task=Task.GENERATE, weight=2.0, share=0.7),
    TaskShare(task=Task.EMBED, weight=1.0, share=0.3, num_waiting=12),
)
BUSY = {
    "num_cached_blocks": 20,
    "prefix_query_tokens": 2400,
    "prefix_hit_tokens": 1024,
    "num_preemptions": 2,
    "num_waiting_tokens": 1234,
    "window_mixes": MIXES,
    "decode_choice": DecodeChoice(num_batches=1, merged_ns=45_000_000, split_ns=52_000_000),
    "task_shares": SHARES,
}


async def a_group(stack):
    """Register one rank of two; return the controller's group, which waits for the other."""
    request = controller_pb2.RegisterRequest(
        worker_id="w",
        address="127.0.0.1:1",
        group="g",
        model=from_card(CARD),
        tp_size=2,
        pp_size=1,
        rendezvous_endpoint="127.0.0.1:1",
    )
    await stack.stub.Register(request, timeout=5)
    await stack.until(controller_pb2.GroupStatus.STATE_WAITING, "g")
    return stack.service._groups.find("g")


async def told(stack, monkeypatch, **values):
    """Return the group as it is fetched when its state has these values."""
    group = await a_group(stack)
    status = replace(group.status(), **values)
    monkeypatch.setattr(group, "status", lambda: status)
    (found,) = (await fetch_cluster(stack.address)).groups
    return found


async def test_the_mix_of_work_comes_back_as_it_was_told(stack, monkeypatch):
    found = await told(stack, monkeypatch, **BUSY)
    assert {name: getattr(found, name) for name in BUSY} == BUSY


async def test_a_group_without_work_tells_of_none(stack, monkeypatch):
    found = await told(stack, monkeypatch)
    assert found.phase is GroupPhase.WAITING
    assert (found.window_mixes, found.decode_choice, found.task_shares) == ((), None, ())
    assert (found.num_cached_blocks, found.prefix_query_tokens, found.num_preemptions) == (0, 0, 0)


async def test_a_choice_without_predictions_has_no_times(stack, monkeypatch):
    choice = DecodeChoice(num_batches=2)
    assert (await told(stack, monkeypatch, decode_choice=choice)).decode_choice == choice
