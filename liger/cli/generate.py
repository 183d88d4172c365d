"""`liger generate`: continues a prompt and shows the text as it comes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from liger.cli import options
from liger.cli.account import print_account, print_json
from liger.cli.choice import choose_model
from liger.cli.generate_options import Controls, takes_controls
from liger.client import Client, Delta, Finished, GenerateStream, Message
from liger.domain import Task
from liger.schedule import Logprob


@takes_controls
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer or continue; - reads standard input.")],
    *,
    controls: Controls,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    system: Annotated[str, typer.Option(help="What the model is told first, in a chat.")] = "",
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Answer a question (or, with --raw, continue a text), as it is made."""
    asked_for = controls.options()
    with Client(gateway) as client:
        chosen = choose_model(client, model, Task.GENERATE)
        if system and (raw or not chosen.has_chat_template):
            raise typer.BadParameter("only a chat has a system turn: leave it, or --raw, out", param_hint="--system")
        text = sys.stdin.read() if prompt == "-" else prompt
        turns = [Message("system", system)] * bool(system) + [Message("user", text)]
        asked: Any = turns if chosen.has_chat_template and not raw else text
        with client.generate(chosen.name, asked, **asked_for) as stream:
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


@dataclass
class _Sample:
    """What came of a sample."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)

    def take(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs

    def whole(self, finished: Finished) -> dict[str, Any]:
        return {
            "text": "".join(self.texts),
            "reason": finished.reason,
            "stop": finished.stop,
            "num_tokens": finished.num_tokens,
            "logprob": finished.logprob,
            "token_ids": self.token_ids,
            "logprobs": self.logprobs,
        }


def _show_json(stream: GenerateStream, model: str) -> None:
    samples: dict[int, _Sample] = {}
    for event in stream.events():
        if isinstance(event, Delta):
            samples.setdefault(event.index, _Sample()).take(event)
    started = stream.started
    print_json(
        {
            "request_id": started.request_id if started else "",
            "model": model,
            "seed": started.seed if started else None,
            "prompt_logprobs": started.prompt_logprobs if started else (),
            "samples": [samples.get(finished.index, _Sample()).whole(finished) for finished in stream.finished],
            "usage": stream.usage,
            "timings": stream.timings,
            "placement": stream.placement,
        }
    )
