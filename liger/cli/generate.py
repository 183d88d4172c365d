"""`liger generate`: continues a prompt and shows the text as it comes."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from liger.cli import options
from liger.cli.account import print_account, print_json
from liger.cli.choice import choose_model
from liger.client import Client, Delta, Finished, GenerateStream, Message
from liger.domain import FinishReason, Task


def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer or continue; - reads standard input.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    system: Annotated[str, typer.Option(help="What the model is told first, in a chat.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to make.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token, which is the default.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens of this total probability.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same draws.")] = None,
    num_samples: Annotated[int | None, typer.Option("--n", help="How many answers.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None,
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Answer a question (or, with --raw, continue a text), as it is made."""
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    with Client(gateway) as client:
        chosen = choose_model(client, model, Task.GENERATE)
        if system and (raw or not chosen.has_chat_template):
            raise typer.BadParameter("only a chat has a system turn: leave it, or --raw, out", param_hint="--system")
        text = sys.stdin.read() if prompt == "-" else prompt
        turns = [Message("system", system)] * bool(system) + [Message("user", text)]
        asked: Any = turns if chosen.has_chat_template and not raw else text
        with client.generate(chosen.name, asked, n=num_samples, stop=stop, **sampling) as stream:  # type: ignore[arg-type]
            show: Callable[[GenerateStream, str], None] = _show_json if as_json else _show_text
            show(stream, chosen.name)


def _show_text(stream: GenerateStream, _model: str) -> None:
    """Write the first sample as it comes, the others whole, and the account on standard error."""
    others: dict[int, str] = {}
    try:
        for event in stream.events():
            if isinstance(event, Delta) and event.index == 0:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, Delta):
                others[event.index] = others.get(event.index, "") + event.text
    finally:
        print()  # an error's line stands alone too
    for index, text in sorted(others.items()):
        print(f"--- {index + 1}\n{text}")
    print_account(stream.usage, stream.timings, stream.placement)


def _show_json(stream: GenerateStream, model: str) -> None:
    texts: dict[int, str] = {}
    for event in stream.events():
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.text
    samples = [_sample(finished, texts.get(finished.index, "")) for finished in stream.finished]
    started = stream.started
    print_json(
        {
            "request_id": started.request_id if started else "",
            "model": model,
            "seed": started.seed if started else None,
            "samples": samples,
            "usage": stream.usage,
            "timings": stream.timings,
            "placement": stream.placement,
        }
    )


def _sample(finished: Finished, text: str) -> dict[str, str | int | FinishReason]:
    return {"text": text, "reason": finished.reason, "stop": finished.stop, "num_tokens": finished.num_tokens}
