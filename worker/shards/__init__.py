"""A rank's slice of a model, from a Hugging Face folder to partial sums; it never communicates.

Reading map: `spec` (what a model is), `folder` (reads it), `families` (what each family calls things), `partition`
(what a rank holds), `checkpoint` and `slices` (tensors by name), `assembly` and `loading` (weights), `shard` (the
forward).
"""
