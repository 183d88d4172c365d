"""Exchanges between ranks.

Reading map: `base` (the interfaces), `local` (one rank), `gloo` (CPU ranks), `links` (between stages), `null`
(none, for benchmarks), `connections` (all that a rank has in an epoch).
"""
