"""Requests to domain values, or an error that names the field: pure, called before anything else is done.

Reading map: `generate`, `infer`, `tokenize` (one for each RPC), `values` (ranges and sizes), `unserved` (what the
contract has and this version does not do yet).
"""
