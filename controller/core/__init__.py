"""The pure core: values in, values out. No clock, no randomness, no gRPC, so it is tested by properties.

Reading map: `requests` (what comes in), `events` (what goes out), `scheduler` (one group's epoch), `published` (windows
on their way), `batch_manager` (who runs next), `rows` (batches as ranks get them), `block_manager` (KV blocks), `depth`
(how many batches at once), `cost_model` (how long segments take), `planner` (the order of segments: what is cached),
`interleave` (one window's search), `pieces` (decomposed segments), `layout` (tasks on lanes), `plan` (what a plan is),
`observer` (what ran), `explain` (what would run).
"""
