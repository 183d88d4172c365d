"""Drawing tokens on vocabulary shards.

Reading map: `noise`, `filters` (the distribution), `sampler` (local, then joined), `likelihood` (of given tokens).
"""
