"""Measures a rank's segments, exchanges and co-runs, so that the controller can predict them.

Reading map: `profiler` (the whole: from disk, or measured together), `plan` (what is measured), `sweep` (in which
order and how often, the same on all ranks), `batches` (runs segments), `exchanges` (times exchanges and co-runs),
`choices` (which way to exchange is taken), `contention` (what a co-run tells), `agreement` (what ranks tell one
another), `subject` and `identity` (what is measured), `store` (on disk). How time is taken: `worker.timing`.
"""
