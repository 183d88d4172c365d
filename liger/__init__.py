"""What all services of Liger+ share, and what its users call.

Reading map: `liger.client` (call a cluster), `liger.cli` (the `liger` command), `liger.models` (bring models),
`liger.cluster_state` and `liger.cluster_views` (what a controller tells), `liger.spans` (what ran or would run, and how
much communication is hidden), `liger.pictures` (drawn and written out), `liger.errors` (every error and its status),
`liger.rpc` (servers and channels), `liger.v1` (generated messages).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("liger-plus")
except PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0.0.0+unknown"
