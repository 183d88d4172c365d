"""Structured output: a constraint that ranks will be able to compile, or why not and where."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from gateway.validation.json_schema import Schema, deepest_failure, parse_schema, refused_at, shortened
from liger.domain import Constraint, ConstraintKind
from liger.errors import InvalidRequestError
from liger.grammars import MAX_TEXT_BYTES, grammar_of, limits, start_deep_thread
from liger.v1 import types_pb2

NOTHING_FITS: Final = "Unsatisfiable: no output can fulfil it"
_PARSER_PLACE: Final = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")  # line(column) of a grammar
_REGEX_ERROR: Final = re.compile(r"regex parse error:\n    (?P<text>.*)\n    (?P<caret> *\^+)\nerror: (?P<why>.*)")
_UNSUPPORTED: Final = re.compile(r'invalid regex "[^\n]*" \(in regex\): (?P<why>.*?)(?: in regex |\n|$)')


def to_constraint(message: types_pb2.StructuredOutput) -> Constraint:
    """Return what must hold of a whole output, after compiling it.

    Compiling takes milliseconds, for hostile texts a second or two: call it outside of an event loop's thread.
    Whether a model's folder has the tokenizer.json that ranks need is not asked here.

    Raises:
        InvalidRequestError: It is empty, too long, wrong or too complex; says why and where.
    """
    kind = message.WhichOneof("constraint")
    if kind is None:
        raise InvalidRequestError(
            "structured_output is empty; set json_schema, regex or grammar, or leave it out", field="structured_output"
        )
    constraint = Constraint(kind=ConstraintKind(kind), text=getattr(message, kind))
    _check_size(constraint)
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            _check_schema(constraint)
        case ConstraintKind.REGEX:
            _check_regex(constraint)
        case ConstraintKind.GRAMMAR:
            _check_grammar(constraint)
    return constraint


def _check_size(constraint: Constraint) -> None:
    field = _field(constraint)
    size = len(constraint.text.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{field} has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are taken", field=field)
    if not constraint.text.strip():
        raise InvalidRequestError(f"{field} is empty; say what the output must be, or leave it out", field=field)


def _check_schema(constraint: Constraint) -> None:
    schema = parse_schema(constraint.text)
    if reason := _compile_error(constraint):
        path, why = deepest_failure(schema, reason, _schema_error)
        raise refused_at(path, _regex_reason(why))


def _schema_error(schema: Schema) -> str:
    return _compile_error(Constraint(kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(schema)))


def _check_regex(constraint: Constraint) -> None:
    if reason := _compile_error(constraint):
        raise _refused(constraint, _regex_reason(reason))


def _check_grammar(constraint: Constraint) -> None:
    if reason := _compile_error(constraint):
        place = _PARSER_PLACE.match(reason)
        where = f"line {place[1]}, column {place[2]}: " if place else ""
        rest = reason[place.end() :] if place else reason
        why = _regex_reason(rest) if "regex" in rest else rest.split("\n")[0]
        raise _refused(constraint, where + why)


def _refused(constraint: Constraint, why: str) -> InvalidRequestError:
    field = _field(constraint)
    return InvalidRequestError(f"{field} cannot be compiled: {shortened(why)}", field=field)


def _field(constraint: Constraint) -> str:
    return f"structured_output.{constraint.kind.value}"


def _regex_reason(reason: str) -> str:
    """Return why a regular expression is wrong, with the character at fault where the library tells it."""
    if error := _REGEX_ERROR.search(reason):
        column = error["caret"].index("^") + 1
        return f"{error['why']} at character {column} of {shortened(error['text'])!r}"
    if error := _UNSUPPORTED.search(reason):
        return error["why"]
    return reason.split("\n", maxsplit=1)[0]


def _compile_error(constraint: Constraint) -> str:
    """Return why a constraint cannot be compiled, empty if it can."""
    return _thread().submit(_compile_error_here, constraint).result()


def _compile_error_here(constraint: Constraint) -> str:
    try:
        grammar = grammar_of(constraint)
    except ValueError as error:
        return str(error)
    if constraint.kind is ConstraintKind.GRAMMAR:
        is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=limits())
        if is_wrong:
            return messages[0]
        if any("no tokenizer" in message for message in messages):
            return "it names tokens of a tokenizer, by <…>; write the text that they stand for"
    matcher = LLMatcher(_byte_tokenizer(), grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # what is too complex from the start shows here
    reason = matcher.get_error() if matcher.is_error() else ""
    return NOTHING_FITS if reason.startswith("NoExtensionBias") else reason  # so it says that it ends before it began


@cache
def _thread() -> ThreadPoolExecutor:
    """Return the one thread that compiles, for as long as the process runs."""
    return start_deep_thread("grammars")


class _Bytes:
    """The plainest vocabulary: every byte, and an end. What it can spell, every model's can."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
