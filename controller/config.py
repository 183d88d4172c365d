"""The controller's settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from liger.domain import Task
from liger.errors import ConfigError

STRATEGIES = ("tensor", "pipeline", "interleaved")
_AT_LEAST_ONE = (
    "windows_ahead",
    "max_depth",
    "max_pieces",
    "max_batch_tokens",
    "max_beside_tokens",
    "max_sequences",
    "max_requests",
    "max_waiting_tokens",
)
_LEAST_UNREAD_TOKENS = 128  # gateways tell every 64 tokens what clients took; with fewer, samples would wait for ever


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """Runs the control plane of Liger+: takes requests from gateways and publishes schedules to workers."""

    listen: str = "127.0.0.1:8601"
    """host:port to listen on; port 0 takes a free one."""
    insecure: bool = False
    """Allow to listen beyond loopback without authentication."""
    strategy: str = "interleaved"
    """How batches share the ranks: tensor (one at a time), pipeline (one a stage), interleaved (one computes while
    others communicate)."""
    stage_layers: str = ""
    """Layers of each pipeline stage, such as 9,7; empty shares them evenly."""
    max_depth: int = 4
    """Batches in flight at once, at most, where they are interleaved."""
    primary_slack: float = 0.05
    """How long the oldest batch may wait for younger ones, as a share of its time alone."""
    pressed_slack: float = 0.5
    """The same while more waits than fits in flight, so that throughput decides how long requests take."""
    max_pieces: int = 4
    """Pieces into which a segment may be decomposed, at most; 1 for none."""
    window_ms: float = 20.0
    """An interleaved window takes the oldest batch so far, in whole layers; five times so far while alone."""
    profile_limit_s: float = 120.0
    """Longest time for the workers of a group to measure their model, in seconds."""
    windows_ahead: int = 2
    """Windows published and not yet acknowledged, at most."""
    max_batch_tokens: int = 2048
    """Tokens of the largest prefill or encode batch; a longer single input runs alone."""
    max_beside_tokens: int = 512
    """Tokens of a prefill or encode batch beside sequences that decode, at most, where the ranks were not measured."""
    max_sequences: int = 128
    """Sequences in work at once in a group."""
    max_requests: int = 2048
    """Requests under way at once in a group; more are refused with RESOURCE_EXHAUSTED."""
    max_waiting_tokens: int = 1_048_576
    """Tokens of prompts and inputs that may wait in a group; more are refused with RESOURCE_EXHAUSTED."""
    max_unread_tokens: int = 512
    """A sample that is so many tokens ahead of what its client has taken waits for the client."""
    task_weights: str = ""
    """Shares of the tasks where they compete, such as generate=4,embed=1; those that are not named have weight 1."""
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
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
        if self.max_unread_tokens < _LEAST_UNREAD_TOKENS:
            raise ConfigError(f"--max-unread-tokens must be at least {_LEAST_UNREAD_TOKENS}")
        for name in ("lease_ttl_s", "join_limit_s", "profile_limit_s", "window_limit_s", "drain_limit_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number of seconds")
        if not (0 <= self.primary_slack <= 10 and 0 <= self.pressed_slack <= 10 and 0 < self.window_ms < float("inf")):
            raise ConfigError("--primary-slack and --pressed-slack must be 0 to 10, --window-ms a positive number")
        self.layers_of_stages()
        self.weights_of_tasks()
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError(f"--log-level takes DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}")

    def layers_of_stages(self) -> tuple[int, ...]:
        """Return the layers of each pipeline stage; empty for even shares.

        Raises:
            ConfigError: They are no numbers from 1.
        """
        parts = [part.strip() for part in self.stage_layers.split(",")] if self.stage_layers else []
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ConfigError(f"--stage-layers takes numbers from 1, such as 9,7, not {self.stage_layers!r}")
        return tuple(map(int, parts))

    def weights_of_tasks(self) -> Mapping[Task, float]:
        """Return the weight of every task.

        Raises:
            ConfigError: They are not tasks with positive numbers.
        """
        weights = dict.fromkeys(Task, 1.0)
        names = {task.name.lower(): task for task in Task}
        for part in filter(None, self.task_weights.split(",")):
            name, _, value = part.partition("=")
            try:
                weights[names[name.strip()]] = weight = float(value)
            except (KeyError, ValueError):
                weight = 0.0
            if not 1e-3 <= weight <= 1e3:
                raise ConfigError(
                    f"--task-weights takes {', '.join(names)} with numbers from 0.001 to 1000, such as "
                    f"generate=4,embed=1, not {part!r}"
                )
        return weights
