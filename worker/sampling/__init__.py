"""Drawing tokens on vocabulary shards, see docs/sampling.md.

Reading map: `draw` (what is asked), `sampler` (candidates of a shard, then the choice), `forms` and `groups` (what like
draws send), `parameters` (how they are drawn, on the device), `picking` (where nothing is filtered), `controls` and
`adjust` (penalties, biases, masks), `filters` (which tokens are kept), `masses`, `ranking` and `packing` (what the
parts of shards are made of), `noise`, `likelihood` (of drawn and of given tokens), `transfers` (from and to the host).
"""
