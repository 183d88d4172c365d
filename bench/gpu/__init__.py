"""The data plane on GPUs: `python -m bench.gpu --ranks 2 --link auto --json out.json`; see docs/gpu_benchmark.md.

Reading map: `settings` (the command line), `testbed` (GPUs, MPS partitions, each rank's environment), `launch` (one
process a rank, all ended at the end), `results` and `report` (JSON as rows come, tables last), `figures` (the
arithmetic). In each rank: `rank` (the parts in turn), `rank_engine` (the product's engine with made weights), `clock`,
`meeting` (how ranks agree), `shapes` and `weights` (the models), `flow` (steady streams of batches, laid in windows by
the product's planner), `timing` (runs them), `measured` (what the parts share), `profile`, `data_plane` and `decode`
(the parts), `plain_llama` (the float32 reference), `symmetric` (torch's symmetric-memory all-reduces). `service` is the
whole cluster under load, with the model that `made_folder` writes.
"""
