"""Requests to domain values, or an error that names the field: pure, called before anything else is done.

Reading map: `generate`, `infer`, `tokenize` (one for each RPC), `sampling` (how tokens are drawn), `structured`
(what outputs must hold to, by compiling it), `json_schema` (its schemas, and where one is wrong), `meta_schema` (what
a schema is), `values` (ranges and sizes).
"""
