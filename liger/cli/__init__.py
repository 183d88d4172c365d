"""The `liger` command.

Reading map: `main` (all commands), `up` (a cluster on this machine), `generate` and `infer` (calls of a gateway),
`models` (bring models), `cluster` (what the controller says), `plan`, `timeline` and `profile` (what would run, what
ran, what was measured), `demo` (everything once), `options`, `generate_options`, `worker_options` and `choice` (what
commands take), `tables`, `profile_tables`, `loads`, `account`, `states` and `progress` (how things are shown), `files`
(what commands read and write).
"""
