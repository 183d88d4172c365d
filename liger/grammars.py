"""Constraints as llguidance compiles them: the same text and limits in gateways, which check, and on ranks, which mask.

Needs llguidance, which gateways and workers have; nothing else of `liger` imports this.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from llguidance import LLMatcher, LLParserLimits

from liger.domain import Constraint, ConstraintKind

MAX_TEXT_BYTES: Final = 64 * 1024
# Between any two parts of a JSON text: nothing, one blank, or a new line with its indentation. The library's default
# lets a model write blanks for ever.
WHITESPACE: Final = r"\x20|\x0A\x20{0,16}"
# The library compiles rules that lead to rules by recursion. 64 KiB of text need less than 64 MiB; what is not touched
# costs no memory.
STACK_BYTES: Final = 256 * 2**20
# What an ambiguous grammar may grow to under way: a token costs a rank up to the cube of a row's items. The row holds
# four for each property that an object may leave out, so that 200 of these are taken.
MAX_ROW_ITEMS: Final = 900
MAX_MASK_ITEMS: Final = 5000

_STACK_SIZE_LOCK = threading.Lock()  # the size for new threads is the process's


def grammar_of(constraint: Constraint) -> str:
    """Return a constraint as llguidance reads it.

    Raises:
        ValueError: A JSON schema that is not JSON.
    """
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(
                constraint.text, overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
            )
        case ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(constraint.text)
        case ConstraintKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(constraint.text)


def limits() -> LLParserLimits:
    """Return what compiling a grammar, and one mask of it, may cost; errors quote nothing of the client's."""
    return LLParserLimits(
        max_items_in_row=MAX_ROW_ITEMS,
        step_max_items=MAX_MASK_ITEMS,
        initial_lexer_fuel=400_000,
        max_lexer_states=50_000,
        verbose_errors=False,
    )


def start_deep_thread(name: str) -> ThreadPoolExecutor:
    """Start one thread with a stack that the deepest grammar within `MAX_TEXT_BYTES` does not overflow."""
    with _STACK_SIZE_LOCK:
        usual = threading.stack_size(STACK_BYTES)
        try:
            executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
            executor.submit(int).result()  # starts the thread
        finally:
            threading.stack_size(usual)
    return executor
