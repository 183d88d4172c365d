"""How services listen and call: servers with health and reflection, channels, errors as `google.rpc.Status`.

Reading map: `status` (error ↔ status, the one table), `server` (listen), `channel` (call).
"""
