"""A worker whose rank is simulated, as a process: `python -m bench.controller.worker --help`; started by `service`."""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.controller.made_up import MODEL
from bench.controller.rank import SimulatedEngine
from liger.lifecycle import run_main, run_service
from liger.telemetry import configure_logging
from worker.config import WorkerConfig
from worker.service import WorkerService

_STOP_LIMIT_S = 5.0


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.controller.worker", description=__doc__)
    parser.add_argument("--controller", required=True, help="host:port of the controller")
    parser.add_argument("--ranks", type=int, required=True, help="ranks of the group")
    parser.add_argument("--blocks", type=int, required=True, help="KV blocks that it says it has")
    asked = parser.parse_args()
    configure_logging("worker", level="INFO", json_lines=False)
    with tempfile.TemporaryDirectory(prefix="liger-bench-") as folder:  # it has no model
        config = WorkerConfig(
            model_folder=Path(folder), model_name=MODEL, tp_size=asked.ranks, controller=asked.controller,
            drain_limit_s=_STOP_LIMIT_S,
        )  # fmt: skip
        await run_service(WorkerService(config, SimulatedEngine(asked.blocks)), stop_limit_s=_STOP_LIMIT_S)


if __name__ == "__main__":
    sys.exit(run_main(_main))
