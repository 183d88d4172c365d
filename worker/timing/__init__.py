"""Times work on a rank's lanes: `base` (what a stopwatch does), `host` (by the host's clock), `device` (by events)."""
