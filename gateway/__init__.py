"""The gateway: what clients call. It checks, tokenises, hands on to the controller, detokenises and streams.

Reading map: `servicer` (the RPCs) → `calls` (who is under way) → `validation` (requests → domain) → `generate` and
`infer` (the use cases) → `tokenizer`, `detokenizer`, `stop` (text) → `controller_link` (the one conversation).
Messages become domain values in `validation` and `codec` and nowhere else. No torch, no numpy.
"""
