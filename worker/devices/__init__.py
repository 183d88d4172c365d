"""What a rank computes on, behind one interface: `base` says what differs, `cpu` and `cuda` are the two.

Reading map: `base` (the interface), `factory` (from a worker's settings), `cpu`, `cuda` (streams, fixed memory,
kernels), `capturer` (what captures), `recorder` (times by events), `buckets` (sizes that batches are padded to).
"""
