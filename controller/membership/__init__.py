"""Who is in the cluster: leases, epochs and the leader's term. Reading map: `base` (the interface), `memory`."""
