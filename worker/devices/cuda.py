"""One GPU: a compute stream that launches run ahead of, fixed memory for each slot, and captured graphs."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from liger.domain import BatchKind
from liger.errors import ConfigError, GroupFailedError
from worker.arenas import DeviceArena
from worker.attention.choice import choose_attention
from worker.attention.interface import AttentionBackend, AttentionShape
from worker.communicator.base import Exchange
from worker.communicator.pieces import whole
from worker.devices.buckets import bucket
from worker.devices.capturer import Relayed
from worker.devices.recorder import DeviceRecorder
from worker.kernels.ops import TritonOps
from worker.kernels.sampling import pick_noisy
from worker.sampling.transfers import pinned_stage
from worker.staging import Page, PageTurner

_CUDA: Final[Any] = torch.cuda  # torch leaves the types of streams and events out


class CudaDevice:
    """A GPU. Implements `Device`.

    Args:
        name: cuda, or cuda:N.

    Raises:
        ConfigError: There is no such GPU.
    """

    runs_ahead = True
    kv_fraction = 0.8  # the rest is for graphs and for what segments need for a while

    def __init__(self, name: str) -> None:
        index = int(name.partition(":")[2] or 0)
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: torch {torch.__version__} finds no GPU; see `nvidia-smi`, or use cpu")
        if index >= torch.cuda.device_count():
            raise ConfigError(f"--device {name}: there are GPUs 0 to {torch.cuda.device_count() - 1} here")
        self.torch_device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(self.torch_device)
        self.name = f"{properties.name} ({properties.multi_processor_count} SMs, {self.torch_device})"
        self.ops = TritonOps()
        self.pick = pick_noisy
        self._bring = pinned_stage(self.torch_device)
        self._given_up = threading.Event()  # the epoch; set from another thread
        self._stream: torch.cuda.Stream | None = None
        self._pages = PageTurner()
        self._page = self._pages.turn()
        self._arenas: dict[int, DeviceArena] = {}

    def bring(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """Begin to copy numbers to the GPU."""
        return self._bring(values, dtype)

    def enter(self) -> None:
        """Make this GPU's compute stream the calling thread's."""
        torch.cuda.set_device(self.torch_device)
        if self._stream is None:
            self._stream = _CUDA.Stream(self.torch_device)
        torch.cuda.set_stream(self._stream)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def begin_epoch(self) -> None:
        """Begin an epoch; outcomes of the last, if one was given up, go on failing."""
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Let outcomes that are read from now on fail: exchanges may have been ended by force."""
        self._given_up.set()

    def free_bytes(self) -> int:
        """Return the memory that may still be taken."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        return free

    def attention(self, shape: AttentionShape) -> AttentionBackend:
        """Return a library's kernels where there are some for the shape, else the reference."""
        return choose_attention(shape)

    def arena(self, slot: int) -> DeviceArena:
        """Return the memory of a slot."""
        if slot not in self._arenas:
            self._arenas[slot] = DeviceArena(self.torch_device, self._pages)
        return self._arenas[slot]

    def bucket(self, kind: BatchKind, num_tokens: int) -> int | None:
        """Return how many tokens a batch is padded to; None if it is not."""
        return bucket(kind, num_tokens)

    def new_recorder(self) -> DeviceRecorder:
        """Return what times by the GPU's events."""
        return DeviceRecorder()

    def new_capturer(self) -> "CudaCapturer":
        """Return what captures on the compute stream, which is the current one."""
        return CudaCapturer()

    def begin_window(self) -> None:
        """Take a page of pinned memory."""
        self._page = self._pages.turn()

    def fetch(self, tensor: Tensor) -> Tensor:
        """Begin to copy to pinned memory."""
        return self._pages.fetch(tensor)

    def end_window(self) -> "CudaFence":
        """Return the place that the compute stream is to come to."""
        return CudaFence(self.torch_device, self._pages, self._page, self._given_up)

    def leave(self) -> None:
        """Let go of the memory of all slots, once the device has done with it."""
        torch.cuda.synchronize(self.torch_device)
        self._arenas = {}
        torch.cuda.empty_cache()


class CudaFence:
    """A place on the compute stream, the current one. Implements `Fence`.

    Args:
        device: The stream's.
        pages: Gets the window's page back.
        page: The window's.
        given_up: Set when the epoch is given up.
    """

    def __init__(self, device: torch.device, pages: PageTurner, page: Page, given_up: threading.Event) -> None:
        self._device = device
        self._pages = pages
        self._page = page
        self._given_up = given_up
        self._event = _CUDA.Event(blocking=True)
        self._event.record()

    def wait(self) -> None:
        """Wait until the stream has come here."""
        torch.cuda.set_device(self._device)  # of the reading thread, which would wait on GPU 0 otherwise
        self._event.synchronize()
        if self._given_up.is_set():
            raise GroupFailedError("the epoch was given up while the device was behind")

    def release(self) -> None:
        """Give the page back."""
        self._pages.give_back(self._page)


class CudaCapturer:
    """Captures on a GPU's compute stream. Implements `Capturer`."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._relays = _CUDA.Stream(priority=-1)
        self._events: dict[int, torch.cuda.Event] = {}  # by slot
        self._failed: list[Any] = []  # graphs, which must not go before the others: see GraphedLaunches
        self.held_bytes = 0

    def capture(self, launch: Callable[[], None]) -> Any:
        """Return what a function launches on the current stream, without running it."""
        free_before, _ = torch.cuda.mem_get_info()
        stream = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        stream.synchronize()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        except RuntimeError:
            self._failed.append(graph)
            raise
        free_after, _ = torch.cuda.mem_get_info()
        self.held_bytes += max(0, free_before - free_after)
        return graph

    def relay(self, slot: int, exchanges: Sequence[Exchange]) -> Relayed:
        """Return the exchange as one that a graph of any time may wait for.

        Row pieces are waited for now: where they went different ways, they are put together in memory of the current
        stream.
        """
        if len(exchanges) > 1:
            return Relayed(whole([exchange.wait() for exchange in exchanges]))
        if slot not in self._events:
            self._events[slot] = _CUDA.Event(external=True)
        event = self._events[slot]
        with torch.cuda.stream(self._relays):
            addends = exchanges[0].wait()
            event.record()
        return Relayed(addends, lambda: torch.cuda.current_stream().wait_event(event))

    def let_go(self, graphs: Sequence[Any]) -> None:
        """Let go of graphs, once the device has done with them."""
        torch.cuda.synchronize()
        for graph in graphs:
            graph.reset()
        self.held_bytes = 0


def prepare_environment() -> None:
    """Set what CUDA reads when it starts: enough hardware queues that streams do not block one another."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "16")
    os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
