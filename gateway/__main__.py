"""`python -m gateway`: what clients call."""

import sys

from gateway.config import GatewayConfig
from gateway.service import GatewayService
from liger.config import build_config
from liger.lifecycle import run_main, run_service
from liger.telemetry import configure_logging


async def _main() -> None:
    config = build_config(GatewayConfig, "gateway", sys.argv[1:])
    configure_logging("gateway", level=config.log_level, json_lines=config.json_logs)
    await run_service(GatewayService(config), stop_limit_s=config.drain_limit_s)


if __name__ == "__main__":
    sys.exit(run_main(_main))
