"""What a profile is of: the words that make its key."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from liger import __version__
from liger.domain import ModelCard
from worker.communicator.base import Communicator
from worker.communicator.chosen import ChosenCommunicator
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.nccl import NcclCommunicator
from worker.rank import JoinPlan


def profile_key(
    card: ModelCard, plan: JoinPlan, *, communicator: Communicator, hardware: Sequence[str], tag: str
) -> str:
    """Return the key of the profile of one stage of a group: equal for what may be measured once for all.

    Args:
        card: The model.
        plan: Sizes of the group and of its largest batches.
        communicator: Whose kind matters.
        hardware: Of each rank of the stage, in rank order.
        tag: The operator's name for what the ranks cannot know, such as the link between them.
    """
    words = {
        "model": card.fingerprint,
        "architecture": card.architecture,
        "dtype": card.dtype,
        "tp": plan.tp_size,
        "stage": plan.pp_stage,
        "layers": "+".join(map(str, plan.stage_layers)),
        "tokens": plan.max_batch_tokens,
        "rows": plan.num_rows,
        "communicator": _communicator_name(communicator),
        "hardware": " + ".join(hardware),
        "version": __version__,
        "tag": tag,
    }
    return "; ".join(f"{name} {word}" for name, word in words.items())


def hardware_name(device: str, gpu: torch.device | None = None) -> str:
    """Return what a rank computes on, for its profile: all that makes times on one differ from those on another.

    Args:
        device: What is used of the processor, where that is what computes.
        gpu: The GPU that computes.
    """
    if gpu is None or gpu.type != "cuda":
        return f"{_processor()}, {device}"
    properties = torch.cuda.get_device_properties(gpu)
    words = (
        properties.name,
        f"{properties.multi_processor_count} SMs",  # of the rank's partition, where ranks share a GPU by MPS
        f"driver {_driver()}",
        f"torch {torch.__version__}",
        f"CUDA {torch.version.cuda}",
    )
    return ", ".join(words)


def _driver() -> str:
    """Return the kernel driver's version; unknown where it does not tell."""
    try:
        line = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return "unknown"
    return next((word for word in line.split() if word[:1].isdigit() and "." in word), "unknown")


def _communicator_name(communicator: Communicator) -> str:
    """Return how ranks exchange, and over what, as far as this rank knows."""
    if isinstance(communicator, ChosenCommunicator):
        return " or ".join(map(_communicator_name, communicator.ways.values()))
    name = type(communicator).__name__
    if isinstance(communicator, CopyEngineCommunicator):
        return f"{name} through the host" if communicator.is_staged else f"{name} from peer to peer"
    if isinstance(communicator, NcclCommunicator) and os.environ.get("NCCL_P2P_DISABLE", "0") != "0":
        return f"{name} through the host"
    return name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
