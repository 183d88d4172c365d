"""Attention by libraries' kernels on CUDA, in 16-bit types.

Reading map: `windows` (what layers see, in the kernels' words), `writing` (new keys and values to the cache), `varlen`
(torch's own: whole inputs, fresh prompts, and paged where the installed torch can), `plans` (FlashInfer's wrappers and
their memory), `flashinfer` (paged batches by FlashInfer).
"""
