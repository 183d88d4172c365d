"""Exchanges between ranks.

Reading map: `base` and `stage_links` (the interfaces), `memory` and `pieces` (partial sums), `local` (one rank), `gloo`
(CPU ranks), `nccl` and `copy_engine` (GPUs), `chosen` (the faster of both), `devices` (opens them), `links` (between
stages), `null` (none, for benchmarks), `connections` (all that a rank has in an epoch).
"""
