"""CUDA's driver: the few calls that exchanges need, without a layer between, as each costs the launching thread.

The calls let go of the interpreter lock: a lane whose queue is full blocks its caller, and only another thread could
then end the wait by aborting.
"""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from liger.errors import GroupFailedError

_OUT_POINTER = POINTER(c_void_p)
_OUT_ADDRESS = POINTER(c_uint64)
_NO_TIMING: Final = 2
_NON_BLOCKING: Final = 1
_REGISTER: Final = 1 | 2  # portable, mapped
_GEQ: Final = 0  # wait for a value at least as large
_PINNED: Final = 1
_POSIX_FD: Final = 1
_DEVICE: Final = 1
_READ_WRITE: Final = 3


class _Location(ctypes.Structure):
    _fields_ = [("type", c_int), ("id", c_int)]


class _Flags(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 8)]


class _AllocationProp(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = [
        ("type", c_int),
        ("handle_types", c_int),
        ("location", _Location),
        ("win32", c_void_p),
        ("flags", _Flags),
    ]


class _AccessDesc(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("location", _Location), ("flags", c_int)]


_CALLS: Final[dict[str, tuple[Any, ...]]] = {
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuMemcpyAsync": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD32Async": (c_uint64, c_uint, c_size_t, c_void_p),
    "cuStreamWriteValue32_v2": (c_void_p, c_uint64, c_uint32, c_uint),
    "cuStreamWaitValue32_v2": (c_void_p, c_uint64, c_uint32, c_uint),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamCreateWithPriority": (_OUT_POINTER, c_uint, c_int),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuCtxGetStreamPriorityRange": (POINTER(c_int), POINTER(c_int)),
    "cuEventCreate": (_OUT_POINTER, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (_OUT_ADDRESS, c_void_p, c_uint),
    "cuMemGetAllocationGranularity": (POINTER(c_size_t), POINTER(_AllocationProp), c_int),
    "cuMemCreate": (_OUT_ADDRESS, c_size_t, POINTER(_AllocationProp), c_uint64),
    "cuMemRelease": (c_uint64,),
    "cuMemExportToShareableHandle": (c_void_p, c_uint64, c_int, c_uint64),
    "cuMemImportFromShareableHandle": (_OUT_ADDRESS, c_void_p, c_int),
    "cuMemAddressReserve": (_OUT_ADDRESS, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemAddressFree": (c_uint64, c_size_t),
    "cuMemMap": (c_uint64, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemUnmap": (c_uint64, c_size_t),
    "cuMemSetAccess": (c_uint64, c_size_t, POINTER(_AccessDesc), c_size_t),
}

Call = tuple[Callable[..., int], tuple[Any, ...]]
"""A driver's function and its arguments; it returns 0 if all is well."""


class Driver:
    """CUDA's driver, in the calling thread's current context. Streams and events are handles.

    Args:
        library: Its name, or what stands in for it in tests.

    Raises:
        GroupFailedError: There is no CUDA driver here; likewise from methods, where a call fails.
    """

    def __init__(self, library: Any = "libcuda.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library) if isinstance(library, str) else library
        except OSError as error:
            raise GroupFailedError(f"copy-engine exchanges need CUDA's driver: {error}") from error
        for name, types in _CALLS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, c_int

    def check(self, status: int) -> None:
        """Raise an error that names what a call returned, unless it is 0."""
        if status:
            name = c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(name))
            raise GroupFailedError(f"CUDA failed in an exchange: {(name.value or b'').decode() or status}")

    def copy(self, stream: int, target: int, source: int, num_bytes: int) -> Call:
        """Return the call that copies bytes between any memories of host and devices."""
        return self._library.cuMemcpyAsync, (target, source, num_bytes, stream)

    def write(self, stream: int, flag: int, value: int) -> Call:
        """Return the call that writes a flag, after all before on the stream can be seen by everyone."""
        return self._library.cuStreamWriteValue32_v2, (stream, flag, value, 0)

    def wait(self, stream: int, flag: int) -> Call:
        """Return the call that lets a stream wait until a flag is at least 1."""
        return self._library.cuStreamWaitValue32_v2, (stream, flag, 1, _GEQ)

    def note(self, stream: int, event: int) -> Call:
        """Return the call that records an event."""
        return self._library.cuEventRecord, (event, stream)

    def wait_for(self, stream: int, event: int) -> Call:
        """Return the call that lets a stream wait for what was last recorded of an event."""
        return self._library.cuStreamWaitEvent, (stream, event, 0)

    def set_words(self, stream: int, address: int, value: int, count: int) -> None:
        """Fill 32-bit words of a device, in stream order."""
        self.check(self._library.cuMemsetD32Async(address, value, count, stream))

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done all it has."""
        self.check(self._library.cuStreamSynchronize(stream))

    def new_event(self) -> int:
        """Return a new event without timing."""
        event = c_void_p()
        self.check(self._library.cuEventCreate(ctypes.byref(event), _NO_TIMING))
        return event.value or 0

    def free_event(self, event: int) -> None:
        """Let go of an event."""
        self._library.cuEventDestroy_v2(event)

    def new_urgent_stream(self) -> int:
        """Return a new stream of the highest priority, which shares a hardware queue with none of another priority."""
        least, greatest, stream = c_int(), c_int(), c_void_p()
        self.check(self._library.cuCtxGetStreamPriorityRange(ctypes.byref(least), ctypes.byref(greatest)))
        self.check(self._library.cuStreamCreateWithPriority(ctypes.byref(stream), _NON_BLOCKING, greatest.value))
        return stream.value or 0

    def free_stream(self, stream: int) -> None:
        """Let go of a stream."""
        self._library.cuStreamDestroy_v2(stream)

    def register(self, address: int, num_bytes: int) -> int:
        """Pin host memory and return where devices see it."""
        self.check(self._library.cuMemHostRegister_v2(address, num_bytes, _REGISTER))
        seen = c_uint64()
        self.check(self._library.cuMemHostGetDevicePointer_v2(ctypes.byref(seen), address, 0))
        return seen.value

    def unregister(self, address: int) -> None:
        """Unpin host memory."""
        self._library.cuMemHostUnregister(address)

    def rounded(self, device: int, num_bytes: int) -> int:
        """Return a size rounded up to what a device's shared memory comes in."""
        granularity = c_size_t()
        prop = _prop(device)
        self.check(self._library.cuMemGetAllocationGranularity(ctypes.byref(granularity), ctypes.byref(prop), 0))
        return -(-num_bytes // granularity.value) * granularity.value

    def create_shared(self, device: int, num_bytes: int) -> tuple[int, int]:
        """Return new memory of a device, of a rounded size: its handle, and a file descriptor for other processes."""
        handle, descriptor, prop = c_uint64(), c_int(-1), _prop(device)
        self.check(self._library.cuMemCreate(ctypes.byref(handle), num_bytes, ctypes.byref(prop), 0))
        status = self._library.cuMemExportToShareableHandle(ctypes.byref(descriptor), handle, _POSIX_FD, 0)
        if status:
            self._library.cuMemRelease(handle)
        self.check(status)
        return handle.value, descriptor.value

    def import_shared(self, descriptor: int) -> int:
        """Return the handle of another process's memory."""
        handle = c_uint64()
        self.check(self._library.cuMemImportFromShareableHandle(ctypes.byref(handle), c_void_p(descriptor), _POSIX_FD))
        return handle.value

    def map_shared(self, device: int, handle: int, num_bytes: int) -> int:
        """Map memory for a device and return its address; the handle is let go.

        Raises:
            GroupFailedError: The device cannot reach it.
        """
        address = c_uint64()
        library, access = self._library, _AccessDesc(_Location(_DEVICE, device), _READ_WRITE)
        status = library.cuMemAddressReserve(ctypes.byref(address), num_bytes, 0, 0, 0)
        is_mapped = False
        if not status:
            status = library.cuMemMap(address, num_bytes, 0, handle, 0)
            is_mapped = not status
        library.cuMemRelease(handle)
        status = status or library.cuMemSetAccess(address, num_bytes, ctypes.byref(access), 1)
        if status and is_mapped:
            library.cuMemUnmap(address, num_bytes)
        if status and address.value:
            library.cuMemAddressFree(address, num_bytes)
        self.check(status)
        return address.value

    def unmap_shared(self, address: int, num_bytes: int) -> None:
        """Unmap memory; it is freed once no process has it mapped."""
        self._library.cuMemUnmap(address, num_bytes)
        self._library.cuMemAddressFree(address, num_bytes)


def _prop(device: int) -> _AllocationProp:
    return _AllocationProp(type=_PINNED, handle_types=_POSIX_FD, location=_Location(_DEVICE, device))
