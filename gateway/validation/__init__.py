"""Requests to domain values, or an error that names the field: pure, called before anything else is done.

Reading map: `generate`, `infer`, `tokenize` (one for each RPC), `sampling` (how tokens are drawn), `values` (ranges and
sizes).
"""
