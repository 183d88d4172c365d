"""Opens copy-engine exchanges: by the GPUs' own memory where all reach it, else through the host's."""

import os
import time
from typing import Any, Final

import torch

from liger.errors import GroupFailedError
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.copy_engine.driver import Driver
from worker.communicator.copy_engine.host_segments import HostSegments
from worker.communicator.copy_engine.layout import Layout
from worker.communicator.copy_engine.meeting import Meeting
from worker.communicator.copy_engine.peer_segments import PeerSegments
from worker.communicator.copy_engine.protocol import Chunking
from worker.communicator.copy_engine.runtime import Runtime
from worker.communicator.copy_engine.segments import Segments
from worker.communicator.memory import ExchangeMemory

_POLL_S: Final = 0.001
_FIRST: Final = 41  # what rank 0 says in the first exchange


@torch.inference_mode(mode=False)  # its memory is used in and out of that mode
def open_copy_engine(
    store: Any,
    *,
    rank: int,
    world_size: int,
    memory: ExchangeMemory,
    limit_s: float,
    chunking: Chunking | None = None,
) -> CopyEngineCommunicator:
    """Connect ranks of one node; all of them at the same time. Their first exchange proves the way.

    `NCCL_P2P_DISABLE=1` in any rank's environment takes the way through the host, as it does for NCCL.

    Args:
        store: Rendezvous keys of this group and epoch alone.
        rank: This rank's place in the group.
        world_size: Ranks of the group.
        memory: Sizes of activations.
        limit_s: Longest wait for the first exchange, in seconds.
        chunking: Of what goes through the host.

    Raises:
        ConfigError: The host's shared memory is too small.
        GroupFailedError: The ranks did not find one another, or bytes do not come through.
    """
    assert world_size >= 2, "a rank alone exchanges nothing"
    runtime = Runtime(memory.device)
    runtime.begin()
    runtime.rest()  # the context is there from here on
    driver, meeting = Driver(), Meeting(store, rank=rank, world_size=world_size)
    segments = open_segments(Layout.of(memory, world_size), meeting, driver, runtime)
    communicator = CopyEngineCommunicator(segments, driver, runtime, chunking)
    error = None
    try:
        is_well = is_first_right(communicator, runtime, limit_s)
    except GroupFailedError as failure:
        is_well, error = False, failure
    if not _agree_or_close(meeting, communicator, is_well=is_well):
        raise error or GroupFailedError(
            "the first exchange between GPUs failed; NCCL_P2P_DISABLE=1 takes the way over the host"
        )
    return communicator


def _agree_or_close(meeting: Meeting, communicator: CopyEngineCommunicator, *, is_well: bool) -> bool:
    """Tell whether all is well with every rank's first exchange; otherwise the communicator is closed."""
    are_well = False
    try:
        are_well = meeting.agree("first", is_well=is_well)
    finally:
        if not are_well:
            communicator.close()
    return are_well


def open_segments(layout: Layout, meeting: Meeting, driver: Driver, runtime: Runtime) -> Segments:
    """Open segments in the devices' memory, or in the host's if some device cannot reach all others'."""
    if meeting.agree("peers", is_well=os.environ.get("NCCL_P2P_DISABLE", "0") != "1"):
        try:
            return PeerSegments(layout, meeting.inner("peer"), driver, runtime)
        except GroupFailedError:
            if not meeting.agree("staged", is_well=True):  # all know that some device cannot
                raise
    return HostSegments(layout, meeting.inner("host"), driver, runtime)


def is_first_right(communicator: CopyEngineCommunicator, runtime: Runtime, limit_s: float) -> bool:
    """Tell whether an exchange of all ranks gives each the right bytes within a limit, in seconds."""
    part = torch.full((64,), _FIRST + communicator.rank, dtype=torch.int64, device=runtime.device)
    parts = communicator.all_gather(part).wait()
    ends_at = time.monotonic() + limit_s
    while not runtime.is_at_rest():
        if time.monotonic() > ends_at:
            return False
        time.sleep(_POLL_S)
    return all(bool((one == _FIRST + rank).all()) for rank, one in enumerate(parts))
