"""Torch's symmetric-memory all-reduces as a communicator: a further baseline of serial tensor parallelism, not served.

One-shot reads all ranks' partial sums and adds them; two-shot adds slices and brings them back together. Both run on
the current stream, beside nothing.
"""

from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from bench.gpu.words import TWO_SHOT
from liger.errors import GroupFailedError
from worker.communicator.local import DoneExchange

_NUM_PLACES: Final = 2  # after attention, after the MLP


class SymmetricCommunicator:
    """One-shot or two-shot all-reduces among the GPUs of one node. Implements `Communicator`.

    Args:
        kind: ONE_SHOT or TWO_SHOT.
        store: Rendezvous keys of this communicator alone.
        rank: This rank's place.
        world_size: Ranks.
        max_numel: Of a partial sum.
        dtype: Of partial sums.
        device: This rank's.

    Raises:
        GroupFailedError: This machine's GPUs do not share memory.
    """

    timed = is_beside = False

    def __init__(
        self, kind: str, store: Any, *, rank: int, world_size: int, max_numel: int, dtype: torch.dtype, device: str
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        ops: Any = torch.ops.symm_mem
        self._is_two_shot = kind == TWO_SHOT
        self._reduce = ops.two_shot_all_reduce_ if self._is_two_shot else ops.one_shot_all_reduce
        try:
            if not dist.is_initialized():
                dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
            self._group: Any = dist.group.WORLD
            self._places = [_shared(max_numel, dtype, device, self._group) for _ in range(_NUM_PLACES)]
        except RuntimeError as error:
            raise GroupFailedError(f"symmetric memory cannot be had here: {str(error).splitlines()[0]}") from error

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return memory that partial sums are written into; batches run one at a time, so that slots share it."""
        del slot, dtype
        return self._places[place % _NUM_PLACES][: shape[0] * shape[1]].view(shape)

    def all_reduce(self, partial: Tensor) -> DoneExchange:
        """Sum partial sums; what lies in no shared memory is copied there first."""
        shared = partial.flatten() if self._is_shared(partial) else self._copied(partial)
        given = self._reduce(shared, "sum", self._group.group_name)
        return DoneExchange(given.view(partial.shape))

    def all_gather(self, part: Tensor) -> DoneExchange:
        """Bring equally shaped parts together through the host: rare and small."""
        own = part.cpu()
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own, group=self._group)
        return DoneExchange(*(each.to(part.device) for each in parts))

    def abort(self) -> None:
        """Do nothing: no exchange of a bench is aborted but by its process's end."""

    def close(self) -> None:
        """Let go of shared memory."""
        self._places = []

    def _is_shared(self, partial: Tensor) -> bool:
        begin = partial.data_ptr()
        return any(each.data_ptr() <= begin < each.data_ptr() + each.nbytes for each in self._places)

    def _copied(self, partial: Tensor) -> Tensor:
        place = self._places[0][: partial.numel()]
        return place.copy_(partial.flatten())


def _shared(numel: int, dtype: torch.dtype, device: str, group: Any) -> Tensor:
    import torch.distributed._symmetric_memory as symm  # noqa: PLC0415 - CUDA builds alone

    module: Any = symm
    tensor: Tensor = module.empty(numel, dtype=dtype, device=device)
    module.rendezvous(tensor, group)
    return tensor
