"""The `liger` command.

Reading map: `main` (all commands), `up` (a cluster on this machine), `generate` and `infer` (calls of a gateway),
`models` (bring models), `cluster` (what the controller says), `demo` (everything once), `options` and `choice` (what
commands have in common), `account`, `states` and `progress` (how things are shown).
"""
