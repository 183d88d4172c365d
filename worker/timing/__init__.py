"""Times work on a rank's lanes.

Reading map: `base` (what a stopwatch does), `host` (by the host's clock), `device` (by events), `budget` (how long
launching takes).
"""
