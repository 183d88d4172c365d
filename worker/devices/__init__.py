"""What a rank computes on, behind one interface: `base` says what differs, `cpu` and `cuda` are the two.

Reading map: `base` (the interface), `cpu`, `cuda` (streams, fixed memory, kernels), `buckets` (sizes that batches are
padded to).
"""
