"""Segments in pinned host memory that all ranks of a node share: for GPUs that do not reach one another's memory."""

import ctypes
import mmap
import os
import secrets
from pathlib import Path
from typing import Final

import torch

from liger.errors import ConfigError, GroupFailedError
from worker.communicator.copy_engine.driver import Driver
from worker.communicator.copy_engine.layout import FLAG_BYTES, Addresses, Layout
from worker.communicator.copy_engine.meeting import Meeting
from worker.communicator.copy_engine.runtime import Runtime

SHARED_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - shared memory; names are random, files private
_PREFIX: Final = "liger-"
_GIB: Final = 1 << 30


class HostSegments:
    """Segments in one file of shared memory, one after another in rank order. Implements `Segments`.

    The file has a random name, told through the epoch's store alone, and is unlinked once all have mapped it.

    Args:
        layout: Sizes.
        meeting: Of the ranks.
        driver: Pins the file.
        runtime: Of the device that has the partial sums and inboxes.

    Raises:
        ConfigError: Shared memory is too small.
        GroupFailedError: Another rank did not come, or could not map the file.
    """

    def __init__(self, layout: Layout, meeting: Meeting, driver: Driver, runtime: Runtime) -> None:
        self._driver = driver
        size = layout.segment_bytes
        self._file = map_together(meeting, size * layout.world_size)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._file))
        base = self._pin_together(meeting, size * layout.world_size)
        self._flags = self._start + meeting.rank * size
        self._flags_bytes = layout.num_flags * FLAG_BYTES
        self.partials = torch.empty(layout.payload_bytes, dtype=torch.uint8, device=runtime.device)
        self.inboxes = torch.empty(layout.inboxes_bytes, dtype=torch.uint8, device=runtime.device)
        self.addresses = Addresses(
            layout=layout,
            rank=meeting.rank,
            segments=tuple(base + rank * size for rank in range(layout.world_size)),
            partials=self.partials.data_ptr(),
            inboxes=self.inboxes.data_ptr(),
            is_staged=True,
        )

    def _pin_together(self, meeting: Meeting, num_bytes: int) -> int:
        """Pin the file and return where devices see it; all ranks learn whether all could."""
        base, error = 0, None
        try:
            base = self._driver.register(self._start, num_bytes)
        except GroupFailedError as failure:
            error = failure
        if not meeting.agree("pinned", is_well=error is None):
            if error is None:
                self._driver.unregister(self._start)
            self._file.close()
            raise error or GroupFailedError("another rank could not pin the memory shared with it")
        return base

    def poison(self) -> None:
        """Set all flags that this rank awaits, by plain stores: to more than 1, which ends a wait for 1 too."""
        ctypes.memset(self._flags, 1, self._flags_bytes)

    def close(self) -> None:
        """Unpin and unmap the file, and let go of the device's memory: a later epoch may need all of it."""
        self._driver.unregister(self._start)
        self._file.close()
        self.partials = self.inboxes = torch.empty(0, dtype=torch.uint8)


def map_together(meeting: Meeting, num_bytes: int, folder: Path = SHARED_FOLDER) -> mmap.mmap:
    """Return a new file of zeros that all ranks have mapped; its name is gone.

    Raises:
        ConfigError: There is no room for it.
        GroupFailedError: Another rank did not come, or could not map it.
    """
    path = folder / f"{_PREFIX}{secrets.token_hex(16)}"
    error: OSError | None = None
    mapped: mmap.mmap | None = None
    try:
        if meeting.rank == 0:
            error = _create(path, num_bytes)
        name = Path(meeting.tell("name", str(path))[0])
        try:
            mapped = None if error else _map(folder, name, num_bytes)
        except OSError as failure:
            error = failure
        is_well = meeting.agree("mapped", is_well=error is None)
    finally:
        if meeting.rank == 0:
            path.unlink(missing_ok=True)
    if error is not None:
        need = num_bytes / _GIB
        raise ConfigError(f"exchanges through the host need {need:.2f} GiB in {folder} ({error.strerror}); enlarge it")
    if not is_well or mapped is None:
        raise GroupFailedError("another rank could not map the memory shared with it")
    return mapped


def _create(path: Path, num_bytes: int) -> OSError | None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)  # now, rather than a signal when it is first touched
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    return None


def _map(folder: Path, path: Path, num_bytes: int) -> mmap.mmap:
    if path.parent != folder or not path.name.startswith(_PREFIX):
        raise OSError(0, "its name is none of ours")
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        return mmap.mmap(descriptor, num_bytes)
    except ValueError as error:  # the file is shorter than it should be
        raise OSError(0, str(error)) from error
    finally:
        os.close(descriptor)
