"""Attention behind one small interface.

Reading map: `interface` (what a shard calls, and what makes it), `choice` (which one a rank runs), `reference` (torch's
scaled dot products: the CPU's, and what the others are checked against), `library` (kernels on CUDA), `metadata` (what
kernels are told of a batch). Of the reference: `rows` (which rows a computation reads), `encode` (whole inputs, nothing
kept), `paged` (chunks of prompts and decode), `cached` (sequences with keys in the paged cache).
"""
