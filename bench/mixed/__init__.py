"""Streams and embeddings on one model at once, with class weights and without: `python -m bench.mixed --json out.json`.

Reading map: `settings` (the command line), `clusters` (one with weights and one without), `made_smollm2` (a model made
on the spot), `phases` (the algorithm), `work` (what is asked), `streams` (clients that read generations), `figures` (of
one phase, and over rounds), `report` (what is shown).
"""
