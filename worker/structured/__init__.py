"""What outputs must hold to, as masks over the vocabulary.

Reading map: `vocabulary` (the model's tokens, for llguidance), `compiled` (constraints, compiled once), `output` (one
sequence's place in its grammar), `matchers` (all of a rank's, on a thread of their own). The constraint's text is
checked in gateways; what both need is in `liger.grammars`.
"""
