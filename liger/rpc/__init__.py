"""How services listen and call: servers with health and reflection, channels, errors as `google.rpc.Status`.

Reading map: `status` (error ↔ status, the one table), `server` (listen), `channel` (call).
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would write lines of its own beside the structured logs
