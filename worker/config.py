"""A worker's settings."""

import re
from dataclasses import dataclass
from pathlib import Path

from liger.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
COMMUNICATORS = ("auto", "gloo", "nccl", "copy-engine", "null")
_GPU = re.compile(r"cuda(:\d+)?")
MAX_KV_FRACTION = 0.95  # of the free memory


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Runs one rank of a group: holds its part of a model and executes schedules."""

    model_folder: Path
    """Hugging Face folder of the model (config.json, safetensors, tokenizer.json)."""
    model_name: str = ""
    """Name that clients use; empty takes the folder's name."""
    group: str = ""
    """Name of the group (the ranks that hold one copy); empty takes the model's name."""
    tp_size: int = 1
    """Ranks that share each layer."""
    pp_size: int = 1
    """Pipeline stages; each has tp_size ranks."""
    rank: int | None = None
    """Place in the group that this worker asks for; unset takes any."""
    controller: str = "127.0.0.1:8601"
    """host:port of the controller."""
    listen: str = "127.0.0.1:0"
    """host:port to listen on; port 0 takes a free one."""
    advertise: str = ""
    """Host under which controller and other ranks reach this worker; empty takes that of --listen."""
    exchange_host: str = ""
    """Address of the interface for exchanges between ranks; empty takes that of --advertise or --listen."""
    communicator: str = "auto"
    """How ranks exchange activations: gloo on the CPU; nccl or copy-engine on GPUs; auto measures which is best where;
    or null, not at all, for benchmarks (outputs are meaningless)."""
    insecure: bool = False
    """Allow to listen beyond loopback without authentication."""
    device: str = "cpu"
    """Where to compute: cpu, cuda or cuda:N."""
    eager: bool = False
    """Launch each segment by itself, without CUDA graphs, for debugging."""
    dtype: str = "float32"
    """Number format of weights and activations: float32, bfloat16 or float16."""
    threads: int = 0
    """Compute threads; 0 takes all cores."""
    kv_memory_fraction: float = 0.0
    """Share of the memory that is free once weights are loaded, for keys and values; 0 takes 0.1 on the CPU, where
    ranks may share a machine, and 0.8 on a GPU."""
    kv_cache_gib: float = 0.0
    """Memory for keys and values of running sequences, in GiB; 0 takes --kv-memory-fraction of what is free."""
    block_size: int = 16
    """Tokens a KV block holds."""
    rendezvous_limit_s: float = 120.0
    """Longest wait for the other ranks to join, after this one's weights are loaded, in seconds."""
    exchange_limit_s: float = 120.0
    """Longest wait for the other ranks in one exchange, in seconds."""
    profile_folder: Path | None = None
    """Where profiles (how long segments and exchanges take here) are kept; unset takes LIGER_HOME/profiles."""
    profile_limit_s: float = 20.0
    """Time that measuring a profile may take at the first start, in seconds; what does not fit is left out."""
    profile_tag: str = ""
    """Any name for what a worker cannot see, such as the link between ranks; profiles are kept apart by it."""
    check_schedules: bool = False
    """Watch that no batch spoils the KV blocks of another, for debugging; costs microseconds for each row."""
    drain_limit_s: float = 30.0
    """Longest wait for requests under way when the worker is asked to stop, in seconds."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    json_logs: bool = False
    """Write logs as JSON, one object a line."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value is out of range.
        """
        if not self.model_folder.is_dir():
            raise ConfigError(f"--model-folder {self.model_folder} is not a folder; `liger models pull` brings models")
        self._check_device()
        if min(self.tp_size, self.pp_size, self.block_size) < 1 or self.threads < 0:
            raise ConfigError("--tp-size, --pp-size and --block-size must be at least 1, --threads at least 0")
        if self.rank is not None and not 0 <= self.rank < self.tp_size * self.pp_size:
            raise ConfigError(f"--rank must be 0 to {self.tp_size * self.pp_size - 1}, not {self.rank}")
        self._check_memory()
        for name in ("rendezvous_limit_s", "exchange_limit_s", "profile_limit_s", "drain_limit_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number")
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError(f"--log-level takes DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}")

    def _check_device(self) -> None:
        if self.device != "cpu" and not _GPU.fullmatch(self.device):
            raise ConfigError(f"--device takes cpu, cuda or cuda:N, not {self.device!r}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"--dtype takes {' or '.join(DTYPES)}, not {self.dtype!r}")
        if self.communicator not in COMMUNICATORS:
            raise ConfigError(f"--communicator takes {' or '.join(COMMUNICATORS)}, not {self.communicator!r}")
        if self.communicator in ("nccl", "copy-engine") and self.device == "cpu":
            raise ConfigError(f"--communicator {self.communicator} is of GPUs; on --device cpu use gloo")
        if self.communicator == "gloo" and self.device != "cpu":
            raise ConfigError("--communicator gloo is of the CPU; on GPUs use auto, nccl or copy-engine")

    def _check_memory(self) -> None:
        if not 0 <= self.kv_memory_fraction <= MAX_KV_FRACTION:
            raise ConfigError(f"--kv-memory-fraction must be 0, for the device's default, or at most {MAX_KV_FRACTION}")
        if not 0 <= self.kv_cache_gib < float("inf"):
            raise ConfigError("--kv-cache-gib must be a number of GiB, or 0 for a share of the free memory")

    @property
    def name(self) -> str:
        """The model's name for clients."""
        return self.model_name or self.model_folder.resolve().name

    @property
    def group_name(self) -> str:
        """The group's name."""
        return self.group or self.name

    @property
    def host(self) -> str:
        """The host under which others reach this worker."""
        return self.advertise or self.listen.rpartition(":")[0]

    @property
    def exchange_address(self) -> str:
        """The host of this worker's end of exchanges, and of the ranks' meeting place."""
        return self.exchange_host or self.host
