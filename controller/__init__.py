"""The control plane: takes requests from gateways, batches and plans them, publishes schedules to ranks.

Reading map: `service` (what runs), `servicer` (gRPC), `gateways` (one conversation a gateway), `groups` (members become
groups), `group` (a group's life), `forming` (how an epoch begins), `renewal` (and ends, to measure anew), `epoch` (the
step loop: the algorithm), `core` (the pure part: batch manager, planner), `dispatcher` (schedules out, acknowledgements
in), `timeline` (what ran), `membership` (leases and epochs).
"""
