"""Attention behind one small interface, and its implementation on the CPU.

Reading map: `interface` (what a shard calls), `rows` (which rows a computation reads), `encode` (whole inputs, nothing
kept), `paged` (chunks of prompts and decode), `cached` (sequences with keys in the paged cache).
"""
