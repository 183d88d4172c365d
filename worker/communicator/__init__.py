"""Exchanges between ranks. Reading map: `base` (the interface), `local` (one rank), `gloo` (CPU ranks)."""
