"""Finds tensors of different devices in one operation."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = {"aten::_to_copy", "aten::copy_"}


class Placement(TorchDispatchMode):
    """Fails where host and device meet but in a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        devices = {one.device.type for one in given if isinstance(one, Tensor) and one.dim()}
        assert len(devices) < 2 or func._schema.name in COPIES, f"{func} takes tensors of {devices}"
        return func(*args, **(kwargs or {}))
