"""The data plane: one rank of a group. The only place for torch.

Reading map: `service` (what runs), `servicer` (gRPC), `session` (a rank's life), `guard` (which windows may run),
`launcher` (the one launching thread), `engine` (what a rank holds), `executor` (windows), `runner` (segments), `slots`,
`inputs`, `sequences`, `feedback`, `sampling` (what segments use), `recorder` (where time goes), `communicator`,
`attention`, `shards`, `profiler`.
"""
