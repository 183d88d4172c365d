"""A libcuda of plain memory: streams are threads, device memory is shared files, the caller's stream is the host."""

import contextlib
import ctypes
import itertools
import mmap
import os
import queue
import threading
import time

import torch

from worker.communicator.copy_engine.driver import Driver

HOST_STREAM = 1
POLL_S = 0.0002


class FakeStream:
    """Runs what it is given in order, in a thread."""

    def __init__(self, handle):
        self.cuda_stream = handle
        self.queue = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while (function := self.queue.get()) is not None:
            function()
            self.queue.task_done()

    def is_idle(self):
        return not self.queue.unfinished_tasks


class FakeLibrary:
    """The calls of `Driver`; none converts what it is given."""

    def __init__(self):
        self.streams = {}
        self.handles = itertools.count(100)
        self.events = {}  # handle: what was last recorded
        self.memory = {}  # handle: file
        self.maps = {}  # address: map
        self.cannot_map = False
        self.cannot_pin = False
        self.cannot_wait = False
        self.most_maps = None  # that can be made
        self.held = set()  # handles not released
        self.mapped = set()  # addresses of shared memory
        for name in [name for name in dir(self) if name.startswith("_cu")]:
            setattr(self, name[1:], _Function(getattr(self, name)))

    def new_stream(self):
        handle = next(self.handles)
        self.streams[handle] = FakeStream(handle)
        return self.streams[handle]

    def close(self):
        for stream in self.streams.values():
            stream.queue.put(None)

    def on(self, handle, function):
        if handle == HOST_STREAM:
            function()
        else:
            self.streams[handle].queue.put(function)
        return 0

    def __getattr__(self, name):
        if name.startswith("cu"):
            return _Function(lambda *_: 0)
        raise AttributeError(name)

    def _cuMemcpyAsync(self, target, source, size, stream):  # noqa: N802
        return self.on(stream, lambda: ctypes.memmove(target, source, size))

    def _cuMemsetD32Async(self, address, value, count, stream):  # noqa: N802
        words = (ctypes.c_uint32 * count).from_address(address)
        return self.on(stream, lambda: ctypes.memmove(words, (ctypes.c_uint32 * count)(*[value] * count), 4 * count))

    def _cuStreamWriteValue32_v2(self, stream, address, value, _):  # noqa: N802
        word = ctypes.c_uint32.from_address(address)

        def write():
            word.value = value

        return self.on(stream, write)

    def _cuStreamWaitValue32_v2(self, stream, address, value, _):  # noqa: N802
        if self.cannot_wait:
            return 801
        word = ctypes.c_uint32.from_address(address)

        def wait():
            while word.value < value:
                time.sleep(POLL_S)

        return self.on(stream, wait)

    def _cuStreamSynchronize(self, stream):  # noqa: N802
        self.streams[stream].queue.join()
        return 0

    def _cuStreamCreateWithPriority(self, out, *_):  # noqa: N802
        out._obj.value = self.new_stream().cuda_stream
        return 0

    def _cuEventCreate(self, out, _):  # noqa: N802
        out._obj.value = next(self.handles)
        return 0

    def _cuEventRecord(self, event, stream):  # noqa: N802
        token = self.events[event] = threading.Event()
        return self.on(stream, token.set)

    def _cuStreamWaitEvent(self, stream, event, _):  # noqa: N802
        token = self.events.get(event)
        return self.on(stream, token.wait) if token else 0

    def _cuMemHostRegister_v2(self, *_):  # noqa: N802
        return 2 if self.cannot_pin else 0

    def _cuMemHostGetDevicePointer_v2(self, out, address, _):  # noqa: N802
        out._obj.value = address
        return 0

    def _cuMemGetAllocationGranularity(self, out, *_):  # noqa: N802
        out._obj.value = 8192
        return 0

    def _cuMemCreate(self, out, size, *_):  # noqa: N802
        descriptor = os.memfd_create("device")
        os.ftruncate(descriptor, size)
        out._obj.value = descriptor
        self.held.add(descriptor)
        return 0

    def _cuMemExportToShareableHandle(self, out, handle, *_):  # noqa: N802
        out._obj.value = os.dup(handle.value)
        return 0

    def _cuMemImportFromShareableHandle(self, out, descriptor, _):  # noqa: N802
        out._obj.value = os.dup(descriptor.value)
        self.held.add(out._obj.value)
        return 0

    def _cuMemAddressReserve(self, out, size, *_):  # noqa: N802
        reserved = mmap.mmap(-1, size)
        out._obj.value = ctypes.addressof(ctypes.c_char.from_buffer(reserved))
        self.maps[out._obj.value] = reserved
        return 0

    def _cuMemMap(self, address, size, _, handle, __):  # noqa: N802
        if self.cannot_map or len(self.mapped) == self.most_maps:
            return 101
        mapped = mmap.mmap(handle, size)
        address.value = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        self.maps[address.value] = mapped
        self.mapped.add(address.value)
        return 0

    def _cuMemUnmap(self, address, _):  # noqa: N802
        self.mapped.discard(address)
        return 0

    def _cuMemRelease(self, handle):  # noqa: N802
        handle = getattr(handle, "value", handle)
        self.held.discard(handle)
        os.close(handle)
        return 0


class _Function:
    """Takes attributes, as ctypes' functions do."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class FakeRuntime:
    """Stands in for `Runtime`; the current stream is the calling thread itself."""

    device = torch.device("cpu")

    def __init__(self):
        self.library = FakeLibrary()
        self.driver = Driver(self.library)
        self.lanes = []

    def begin(self):
        pass

    def rest(self):
        for lane in self.lanes:
            lane.queue.join()

    def current_stream(self):
        return HOST_STREAM

    def is_capturing(self):
        return False

    def new_lane(self):
        self.lanes.append(self.library.new_stream())
        return self.lanes[-1]

    @contextlib.contextmanager
    def on(self, stream):
        stream.queue.join()
        yield

    def hold(self, tensor, stream):
        stream.queue.put(lambda: tensor)

    def new_span(self):
        return FakeTimingEvent(), FakeTimingEvent()

    def is_at_rest(self):
        return True

    def tensor_at(self, address, num_bytes):
        return torch.frombuffer((ctypes.c_ubyte * num_bytes).from_address(address), dtype=torch.uint8)


class FakeTimingEvent:
    def record(self, stream):
        stream.queue.put(self._set)

    def _set(self):
        self.at_ns = time.perf_counter_ns()
