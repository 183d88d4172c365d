"""Measurements: each prints ratios of things measured side by side in one run.

Reading map: `controller` (the controller alone), `generation` (one chat model against transformers, with `reference`),
`link` (the strategies over a slow link), `planner` (how long planning takes).
"""
