"""What `liger up` asks of the workers that it starts."""

from enum import Enum
from typing import Annotated, Final

import typer

from liger.local_cluster.gpus import count_gpus


class Device(Enum):
    """What `--device` takes."""

    cpu = "cpu"
    cuda = "cuda"


class Communicator(Enum):
    """What `--communicator` takes; a worker's `null`, without meaning, is for benchmarks alone."""

    auto = "auto"
    gloo = "gloo"
    nccl = "nccl"
    copy_engine = "copy-engine"


DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where workers compute: cpu, or cuda, the GPUs here shared out in turn.")
]
CommunicatorOption = Annotated[
    Communicator,
    typer.Option("--communicator", help="How ranks exchange: gloo on the CPU; nccl or copy-engine on GPUs."),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Number format of weights and activations; default: float32, bfloat16 on GPUs."),
]
KvMemoryFraction = Annotated[
    float | None,
    typer.Option(
        "--kv-memory-fraction",
        help="Share of the free memory that each worker's KV cache takes; default: 0.1, 0.8 on GPUs.",
    ),
]
KvCacheGib = Annotated[
    float | None,
    typer.Option("--kv-cache-gib", help="Memory of each worker's KV cache, in GiB, in place of a share."),
]
_DTYPES: Final = {Device.cpu: "float32", Device.cuda: "bfloat16"}  # where none is asked for


def worker_options(
    device: Device,
    communicator: Communicator,
    dtype: str | None,
    kv_memory_fraction: float | None,
    kv_cache_gib: float | None,
) -> dict[str, str]:
    """Return the flags of workers, without their dashes."""
    memory = {"kv-memory-fraction": kv_memory_fraction, "kv-cache-gib": kv_cache_gib}
    options = {"device": device.value, "communicator": communicator.value, "dtype": dtype or _DTYPES[device]}
    return options | {name: f"{value:g}" for name, value in memory.items() if value is not None}


def gpus_for(device: Device) -> int:
    """Return how many GPUs workers share; 0 on the CPU.

    Raises:
        typer.BadParameter: GPUs are asked for and there is none.
    """
    if device is Device.cpu:
        return 0
    if found := count_gpus():
        return found
    raise typer.BadParameter(
        "there is no GPU here; see `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use cpu", param_hint="--device"
    )
