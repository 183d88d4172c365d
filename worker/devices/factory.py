"""Makes the device that a worker's settings name."""

import os

from worker.config import WorkerConfig
from worker.devices.base import Device
from worker.devices.cpu import CpuDevice


def make_device(config: WorkerConfig) -> Device:
    """Return the device of `--device`.

    Raises:
        ConfigError: There is no such device.
    """
    if config.device == "cpu":
        return CpuDevice(config.threads or os.cpu_count() or 1)
    from worker.devices.cuda import CudaDevice, prepare_environment  # noqa: PLC0415 - CPU ranks do without its kernels

    prepare_environment()
    return CudaDevice(config.device)
