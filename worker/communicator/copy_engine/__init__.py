"""Exchanges of GPUs on one node without a kernel: payloads by copy engines, signals by stream memory operations.

Reading map: `layout` (what lies where), `protocol` (what each lane does, in which order, and why that is safe; both
pure), `driver` (CUDA's calls), `programs` (the protocol as CUDA calls), `host_segments` and `peer_segments` (memory
that all ranks reach), `communicator` (the exchanges themselves).
"""
