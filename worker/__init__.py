"""The data plane: one rank of a group. The only place for torch.

Reading map: `service` (what runs), `servicer` (gRPC), `session` (a rank's life), `guard` (which windows may run),
`launcher` (the one launching thread), `engine` (what a rank holds), `executor` (segments in the order given), `inputs`,
`sequences`, `sampling` (what segments use), `communicator`, `attention`, `shards`.
"""
