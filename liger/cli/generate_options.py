"""The options of `liger generate` that say what is made: one for each control of a generation."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from liger.cli.files import read
from liger.client import GenerateOptions

_INLINE_SCHEMAS: Final = frozenset({"true", "false"})
_Ids = list[int] | None


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a command line asks of a generation; None and False leave a control unset."""

    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to make.")] = None
    min_tokens: Annotated[int | None, typer.Option(help="Fewest tokens before an end is allowed.")] = None
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token, which is the default.")] = None
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")] = None
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this total share.")] = None
    min_p: Annotated[float | None, typer.Option(help="Draw from tokens of this share of the likeliest one's.")] = None
    typical_p: Annotated[float | None, typer.Option(help="Draw from the most typical tokens of this share.")] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: less of what prompt and answer have.")] = (
        None
    )
    presence_penalty: Annotated[float | None, typer.Option(help="Taken from tokens that the answer has.")] = None
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, for each time that it has them.")] = None
    logit_bias: Annotated[
        list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to a token's logit; may be repeated.")
    ] = None
    allowed_token: Annotated[_Ids, typer.Option(metavar="ID", help="Draw only such tokens; may be repeated.")] = None
    banned_token: Annotated[_Ids, typer.Option(metavar="ID", help="Never draw this token; may be repeated.")] = None
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same draws.")] = None
    num_samples: Annotated[int | None, typer.Option("--n", help="How many answers.")] = None
    best_of: Annotated[int | None, typer.Option(help="Make so many answers and show the likeliest.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None
    stop_token: Annotated[_Ids, typer.Option(metavar="ID", help="Token that ends the answer; may be repeated.")] = None
    include_stop: Annotated[bool, typer.Option("--include-stop", help="Show the stop text too.")] = False
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the model's own end.")] = False
    logprobs: Annotated[
        int | None, typer.Option(help="Log-probabilities, with so many rivals a token; shown with --json.")
    ] = None
    prompt_logprobs: Annotated[int | None, typer.Option(help="The same of the prompt's tokens.")] = None
    json_schema: Annotated[
        str | None, typer.Option(metavar="FILE|SCHEMA", help="JSON Schema that the answer must fulfil.")
    ] = None
    regex: Annotated[str | None, typer.Option(help="Regular expression that the whole answer must match.")] = None
    grammar: Annotated[Path | None, typer.Option(metavar="FILE", help="Lark grammar of the whole answer.")] = None
    priority: Annotated[int | None, typer.Option(help="-100 to 100; higher goes sooner.")] = None
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Give up after so long.")] = None

    def options(self) -> GenerateOptions:
        """Return the same as the client takes it.

        Raises:
            ConfigError: A file cannot be read.
            typer.BadParameter: A bias is no ID=BIAS.
        """
        return GenerateOptions(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=dict(map(_bias, self.logit_bias)) if self.logit_bias else None,
            allowed_token_ids=self.allowed_token or None,
            banned_token_ids=self.banned_token or None,
            seed=self.seed,
            n=self.num_samples,
            best_of=self.best_of,
            stop=self.stop or None,
            stop_token_ids=self.stop_token or None,
            include_stop=self.include_stop or None,
            ignore_eos=self.ignore_eos or None,
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            json_schema=None if self.json_schema is None else _schema(self.json_schema),
            regex=self.regex,
            grammar=None if self.grammar is None else read(self.grammar),
            priority=self.priority,
            timeout_s=self.timeout,
        )


def takes_controls(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes each field of `Controls` as an option of its own, and gives them as `controls`."""
    hints = get_type_hints(Controls, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Controls)
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        controls = Controls(**{option.name: given.pop(option.name) for option in options})
        command(controls=controls, **given)

    own = inspect.signature(command)
    others = [parameter for name, parameter in own.parameters.items() if name != "controls"]
    run.__signature__ = own.replace(parameters=[others[0], *options, *others[1:]])  # type: ignore[attr-defined]
    return run


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no ID=BIAS, such as 42=-1.5", param_hint="--logit-bias") from error


def _schema(text: str) -> str:
    is_inline = text.lstrip().startswith("{") or text.strip() in _INLINE_SCHEMAS
    return text if is_inline else read(Path(text))
