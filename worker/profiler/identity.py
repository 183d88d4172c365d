"""What a profile is of: the words that make its key."""

import platform
from collections.abc import Sequence
from pathlib import Path

from liger import __version__
from liger.domain import ModelCard
from worker.communicator.base import Communicator
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
        "communicator": type(communicator).__name__,
        "hardware": " + ".join(hardware),
        "version": __version__,
        "tag": tag,
    }
    return "; ".join(f"{name} {word}" for name, word in words.items())


def hardware_name(device: str) -> str:
    """Return what a rank computes on, for its profile: the processor's name and what is used of it."""
    return f"{_processor()}, {device}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
