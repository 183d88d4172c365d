"""`python -m worker`: one rank of a group."""

import os
import sys
from typing import Final

from liger.config import build_config
from liger.lifecycle import run_main, run_service
from liger.telemetry import configure_logging
from worker.config import WorkerConfig

# Idle OpenMP threads spin 30 ms by default, which starves ranks that share cores (20 times slower with two ranks on two
# cores); so many turns are a fraction of a millisecond. Read when torch is imported.
SPIN_COUNT: Final = "5000"


async def _main() -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    config = build_config(WorkerConfig, "worker", sys.argv[1:])
    configure_logging("worker", level=config.log_level, json_lines=config.json_logs)
    from worker.engine import Engine  # noqa: PLC0415 - torch takes seconds; bad flags are told before
    from worker.service import WorkerService  # noqa: PLC0415

    await run_service(WorkerService(config, Engine(config)), stop_limit_s=config.drain_limit_s + 10.0)


if __name__ == "__main__":
    sys.exit(run_main(_main))
