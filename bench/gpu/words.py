"""Names that the bench's parts share; without torch, which the parent of the ranks does not need."""

from typing import Final

RECORD: Final = "@"
"""Begins a line of a rank's standard output that is a record."""
NULL: Final = "null"
"""The communicator that exchanges nothing."""
WHOLE: Final = "whole"
"""The unsplit model on each rank by itself."""
ONE_SHOT: Final = "symm-one-shot"
TWO_SHOT: Final = "symm-two-shot"
SYMMETRIC: Final = (ONE_SHOT, TWO_SHOT)
"""Torch's all-reduces over symmetric memory."""
