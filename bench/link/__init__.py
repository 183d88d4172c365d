"""Strategies side by side over a slow link: `python -m bench.link --rate 500mbit --json out.json`; needs root.

Reading map: `settings` (the command line), `testbed` and `network` (the link), `models` and `work` (what is served and
asked), `clusters` (one for each strategy), `measure` (the algorithm), `load` (the clients), `runs`, `figures` and
`lanes` (one point), `summary` (what the points say together), `report`, `picture` and `progress` (what is shown),
`machine` (on what it was measured).
"""
