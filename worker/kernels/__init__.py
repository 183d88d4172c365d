"""Triton's kernels, for CUDA; importing them needs triton, so only what serves a CUDA rank does, when it is made.

They launch on the current stream, never wait and look at no value on the host, so CUDA graphs can hold them; the first
launch of each shape compiles, and must come before a capture. Reading map: `ops` (what a shard calls), `norms`
(residual, addends, bias and norm in one pass), `gates` (gated activations), `rotations` (norm and turn queries and
keys), `cache` (keys and values to their slots).
"""
