"""The gateway's settings."""

from dataclasses import dataclass
from typing import Final

from liger.errors import ConfigError
from liger.rpc.server import MAX_MESSAGE_BYTES

MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Serves clients: InferenceService, with health and reflection, in front of a controller."""

    listen: str = "127.0.0.1:8600"
    """host:port to listen on; port 0 takes a free one."""
    controller: str = "127.0.0.1:8601"
    """host:port of the controller."""
    insecure: bool = False
    """Allow to listen beyond loopback without authentication."""
    max_requests: int = 1024
    """Calls under way at once; more are refused with RESOURCE_EXHAUSTED."""
    max_inputs: int = 2048
    """Inputs of one Infer call."""
    max_message_mib: int = 16
    """Largest request message, in MiB, at most 64."""
    drain_limit_s: float = 30.0
    """Longest wait for calls under way when the gateway is asked to stop, in seconds."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    json_logs: bool = False
    """Write logs as JSON, one object a line."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value is out of range.
        """
        for name in ("listen", "controller"):
            host, _, port = getattr(self, name).rpartition(":")
            if not host or not port.isdecimal() or int(port) > 65_535:
                raise ConfigError(f"--{name} takes host:port, not {getattr(self, name)!r}")
        for name in ("max_requests", "max_inputs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
        if not 1 <= self.max_message_mib <= MAX_MESSAGE_BYTES // MIB:
            raise ConfigError(f"--max-message-mib must be 1 to {MAX_MESSAGE_BYTES // MIB}")
        if not 0 < self.drain_limit_s < float("inf"):
            raise ConfigError("--drain-limit-s must be a positive number of seconds")
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError(f"--log-level takes DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}")
