"""The controller alone, against simulated ranks: how many tokens a second one core schedules, what a step costs it.

    python -m bench.controller --strategy interleaved --json out.json

Reading map: `made_up` (model and load), `rank` (a rank without a model), `core` (the scheduler in this process),
`loopback` (all that the controller does but for gRPC), `service` (the real service with ranks and a gateway, as
processes), `report` (figures and their table).
"""
