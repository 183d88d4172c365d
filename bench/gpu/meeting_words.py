"""How ranks mark what their parent reads; without torch, which the parent does not need."""

from typing import Final

RECORD: Final = "@"
"""Begins a line of standard output that is a record."""
