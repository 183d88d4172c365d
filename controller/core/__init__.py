"""The pure core: values in, values out. No clock, no randomness, no gRPC, so it is tested by properties.

Reading map: `requests` (what comes in), `events` (what goes out), `scheduler` (one group's epoch), `batch_manager` (who
runs next), `block_manager` (KV blocks), `planner` (the order of segments).
"""
