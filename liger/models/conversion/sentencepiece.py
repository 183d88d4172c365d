"""Turns a SentencePiece BPE vocabulary, which ranks pieces by score, into an ordered list of merges."""

from collections.abc import Mapping, Sequence


def merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[list[str]]:
    """Return every pair of pieces whose join is a piece, in the order in which SentencePiece would join them.

    SentencePiece joins, at each step, the neighbours whose join has the best score; a list of merges in falling order
    of score, ties in the order of the parts' ids, does the same.

    Args:
        vocabulary: Ids by piece.
        scores: By id; higher joins sooner.
    """
    found = [
        (-scores[token_id], vocabulary[piece[:cut]], vocabulary[piece[cut:]], piece[:cut], piece[cut:])
        for piece, token_id in vocabulary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return [[left, right] for *_, left, right in sorted(found)]
