"""The model families that are served, as data: how config.json is read and what the checkpoint calls each weight.

Reading map: `names` (what a family must say), `llama`, `opt`, `gpt2`, `bert` (what each says), `registry` (by class).
"""
