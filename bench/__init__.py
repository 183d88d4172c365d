"""Measurements: each prints ratios of things measured side by side in one run.

Reading map: `controller` (the controller alone), `generation` (one chat model against transformers, with `reference`),
`gpu` (the data plane on GPUs, and the service on it), `link` (the strategies over a slow link), `mixed` (streams beside
embeddings), `planner` (how long planning takes), `prefix` (what the prefix cache saves). Shared: `one_model` (a cluster
with one model), `words` (what clients send), `made_model` (forwards and a profile, no ranks), `ending` (exit codes).
"""
