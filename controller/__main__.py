"""`python -m controller`: the control plane."""

import gc
import sys
from typing import Final

from controller.config import ControllerConfig
from controller.service import ControllerService
from liger.config import build_config
from liger.lifecycle import run_main, run_service
from liger.telemetry import configure_logging

# New objects: much lives long, cycles are few, and each look for them delays a step.
_GARBAGE_EVERY: Final = 50_000


async def _main() -> None:
    gc.set_threshold(_GARBAGE_EVERY)
    config = build_config(ControllerConfig, "controller", sys.argv[1:])
    configure_logging("controller", level=config.log_level, json_lines=config.json_logs)
    await run_service(ControllerService(config), stop_limit_s=config.drain_limit_s + 5.0)


if __name__ == "__main__":
    sys.exit(run_main(_main))
