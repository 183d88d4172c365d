"""Segments in the memory of GPUs that reach one another's: over NVLink or PCIe, or as one GPU."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

import torch

from liger.errors import GroupFailedError
from worker.communicator.copy_engine.driver import Driver
from worker.communicator.copy_engine.layout import Addresses, Layout
from worker.communicator.copy_engine.meeting import Meeting
from worker.communicator.copy_engine.runtime import Runtime

_LIMIT_S: Final = 30.0


class PeerSegments:
    """Segments of device memory, each mapped by all ranks. Implements `Segments`.

    Memory created so is counted over processes: what a stopped process has mapped is not given to another use before
    that process has gone.

    Args:
        layout: Sizes.
        meeting: Of the ranks.
        driver: Creates and maps memory.
        runtime: Of this rank's device.

    Raises:
        GroupFailedError: Some device cannot reach another's memory, or another rank did not come.
    """

    def __init__(self, layout: Layout, meeting: Meeting, driver: Driver, runtime: Runtime) -> None:
        index = runtime.device.index or 0
        self._driver = driver
        self._runtime = runtime
        self._size = driver.rounded(index, layout.segment_bytes)
        self._num_flags = layout.num_flags
        self._segments: dict[int, int] = {}  # by rank
        self._stream = driver.new_urgent_stream()  # for poison: no lane may block it
        try:
            self._open(layout, meeting, index)
        except GroupFailedError:
            self.close()
            raise
        own = self._segments[meeting.rank]
        self.partials = runtime.tensor_at(own + layout.payload_offset, layout.payload_bytes)
        self.inboxes = torch.empty(layout.inboxes_bytes, dtype=torch.uint8, device=runtime.device)
        self.addresses = Addresses(
            layout=layout,
            rank=meeting.rank,
            segments=tuple(self._segments[rank] for rank in range(layout.world_size)),
            partials=self.partials.data_ptr(),
            inboxes=self.inboxes.data_ptr(),
            is_staged=False,
        )

    def _open(self, layout: Layout, meeting: Meeting, index: int) -> None:
        """Create, lower all flags, share and map; all ranks learn whether all could."""
        driver, error = self._driver, None
        descriptor = self._create(meeting, index)
        try:
            descriptors = pass_descriptors(meeting, descriptor)
        finally:
            os.close(descriptor)
        try:
            for rank, passed in descriptors.items():
                self._segments[rank] = driver.map_shared(index, driver.import_shared(passed), self._size)
            driver.set_words(self._stream, self._segments[meeting.rank], 0, layout.num_flags)
            driver.synchronize(self._stream)
        except GroupFailedError as failure:
            error = failure
        finally:
            for taken in descriptors.values():
                os.close(taken)
        if not meeting.agree("mapped", is_well=error is None):
            raise error or GroupFailedError("another rank cannot reach the memory of all GPUs")

    def _create(self, meeting: Meeting, index: int) -> int:
        """Create and map this rank's segment, which from here on goes with its mapping; return its descriptor."""
        descriptor, error = -1, None
        try:
            handle, descriptor = self._driver.create_shared(index, self._size)
            self._segments[meeting.rank] = self._driver.map_shared(index, handle, self._size)
        except GroupFailedError as failure:
            error = failure
        try:
            are_well = meeting.agree("created", is_well=error is None)
        except GroupFailedError as failure:
            are_well, error = False, error or failure
        if not are_well:
            if descriptor >= 0:
                os.close(descriptor)
            raise error or GroupFailedError("another rank's GPU has no memory to share")
        return descriptor

    def poison(self) -> None:
        """Set all flags that this rank awaits, by a stream of its own."""
        self._runtime.begin()  # a new thread has no context
        self._driver.set_words(self._stream, self._segments[self.addresses.rank], 1, self._num_flags)
        self._driver.synchronize(self._stream)

    def close(self) -> None:
        """Unmap all segments; each is freed once the last rank has."""
        self.partials = self.inboxes = torch.empty(0, dtype=torch.uint8)
        for segment in self._segments.values():
            self._driver.unmap_shared(segment, self._size)
        self._segments = {}
        self._driver.free_stream(self._stream)


def pass_descriptors(meeting: Meeting, descriptor: int) -> dict[int, int]:
    """Give every other rank of this machine a file descriptor; return theirs, by rank.

    Raises:
        GroupFailedError: A rank did not come, or is not on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="liger-"))  # only this user can enter it
    taken: dict[int, int] = {}
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "ranks"))
            listener.listen(meeting.world_size)
            listener.settimeout(_LIMIT_S)
            paths = meeting.tell("sockets", str(folder / "ranks"))
            for rank, path in enumerate(paths):
                if rank != meeting.rank:
                    _give(path, meeting.rank, descriptor)
            while len(taken) + 1 < meeting.world_size:
                rank, passed = _take(listener)
                taken[rank] = passed
            is_well = set(taken) | {meeting.rank} == set(range(meeting.world_size))  # else a stranger called
            if not meeting.agree("passed", is_well=is_well):  # nor may a listener close before all have called
                raise GroupFailedError("another process called in place of a rank")  # noqa: TRY301 - cleans up below
    except (OSError, GroupFailedError) as error:
        for passed in taken.values():
            os.close(passed)
        raise GroupFailedError(f"the ranks could not share memory of their GPUs: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return taken


def _give(path: str, rank: int, descriptor: int) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_LIMIT_S)
        connection.connect(path)
        socket.send_fds(connection, [bytes([rank])], [descriptor])


def _take(listener: socket.socket) -> tuple[int, int]:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_LIMIT_S)
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        if len(message) != 1 or len(descriptors) != 1:
            raise OSError("another process called in place of a rank")
        return message[0], descriptors[0]
