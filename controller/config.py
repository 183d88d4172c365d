"""The controller's settings."""

from dataclasses import dataclass

from liger.errors import ConfigError

STRATEGIES = ("tensor",)


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """Runs the control plane of Liger+: takes requests from gateways and publishes schedules to workers."""

    listen: str = "127.0.0.1:8601"
    """host:port to listen on; port 0 takes a free one."""
    insecure: bool = False
    """Allow to listen beyond loopback without authentication."""
    strategy: str = "tensor"
    """How batches share the ranks: tensor (one batch in flight)."""
    windows_ahead: int = 2
    """Windows published and not yet acknowledged, at most."""
    max_batch_tokens: int = 2048
    """Tokens of the largest prefill or encode batch; a longer single input runs alone."""
    max_sequences: int = 128
    """Sequences in work at once in a group."""
    max_requests: int = 2048
    """Requests under way at once in a group; more are refused with RESOURCE_EXHAUSTED."""
    lease_ttl_s: float = 10.0
    """A worker that does not renew its lease for so many seconds is lost."""
    join_limit_s: float = 900.0
    """Longest time for the workers of a group to load weights and find one another, in seconds."""
    window_limit_s: float = 300.0
    """A window that is not acknowledged for so many seconds ends the group's epoch."""
    drain_limit_s: float = 30.0
    """Longest wait for requests under way when the controller is asked to stop, in seconds."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    json_logs: bool = False
    """Write logs as JSON, one object a line."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value is out of range.
        """
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"--strategy takes {' or '.join(STRATEGIES)}, not {self.strategy!r}")
        least_one = ("windows_ahead", "max_batch_tokens", "max_sequences", "max_requests")
        for name in least_one:
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("lease_ttl_s", "join_limit_s", "window_limit_s", "drain_limit_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number of seconds")
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError(f"--log-level takes DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}")
