"""What exchanges need of torch's side of CUDA."""

from typing import Any, Final

import torch
from torch import Tensor

from worker.communicator.base import Span

_CUDA: Final[Any] = torch.cuda  # torch's stubs leave types out
_current_stream: Final[Any] = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # noqa: SLF001 - a tenth of the time


class Runtime:
    """Torch's CUDA on one device, which the calling thread has made current.

    Args:
        device: With its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def begin(self) -> None:
        """Give this thread the device's context."""
        _CUDA.set_device(self.device)

    def rest(self) -> None:
        """Block until the device has done all it has."""
        _CUDA.synchronize(self.device)

    def current_stream(self) -> int:
        """Return the handle of the thread's current stream."""
        handle: int = _current_stream(self.device.index)
        return handle

    def is_capturing(self) -> bool:
        """Tell whether the current stream's work goes to a graph."""
        return torch.cuda.is_current_stream_capturing()

    def new_lane(self) -> Any:
        """Return a new stream of high priority."""
        return _CUDA.Stream(self.device, priority=-1)

    def on(self, stream: Any) -> Any:
        """Return a context in which a stream is the current one."""
        return _CUDA.stream(stream)

    def hold(self, tensor: Tensor, stream: Any) -> None:
        """Keep a tensor's memory, once it is dropped, until what a stream has now is done."""
        tensor.record_stream(stream)

    def new_span(self) -> Span:
        """Return events that tell times."""
        return _CUDA.Event(enable_timing=True), _CUDA.Event(enable_timing=True)

    def tensor_at(self, address: int, num_bytes: int) -> Tensor:
        """Return memory of the device as a tensor of bytes; it must outlive the tensor."""
        return torch.as_tensor(_Memory(address, num_bytes), device=self.device)

    def is_at_rest(self) -> bool:
        """Tell whether the current stream has done all it has."""
        at_rest: bool = _CUDA.current_stream(self.device).query()
        return at_rest


class _Memory:
    """What torch needs to take a device's memory for a tensor."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "strides": None,
        }
