"""The data plane: one rank of a group. The only place for torch.

Reading map: `service` (what runs), `servicer` (gRPC), `session` (a rank's life), `guard` (which windows may run),
`launcher` (the one launching thread), `engine` (what a rank holds), `assembly` (puts it together), `executor`
(windows), `templates` (what a pattern comes to here), `launching` and `graphs` (one by one, or captured), `runner`
(segments), `slots`, `arenas`, `staging` (memory of batches), `inputs`, `sequences`, `kv_cache`, `feedback`, `sampling`,
`structured` (what segments use), `recorder` (where time goes), `devices` (CPU and CUDA), `communicator`, `attention`,
`shards`, `kernels`, `profiler`, `timing`.
"""
