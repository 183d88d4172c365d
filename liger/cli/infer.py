"""`liger embed`, `score`, `classify` and `rerank`: the discriminative tasks."""

from typing import Annotated

import typer
from rich.table import Table

from liger.cli import options, tables
from liger.cli.account import print_account, print_json
from liger.cli.choice import choose_model
from liger.client import Client
from liger.client.results import InferReply
from liger.domain import Task

_Texts = Annotated[list[str], typer.Argument(metavar="TEXT…", help="What to read.")]
_Raw = Annotated[bool, typer.Option("--raw", help="Show the head's raw outputs (or labels' log-likelihoods).")]
_Truncate = Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long instead of refusing them.")]


def embed(
    texts: _Texts,
    *,
    dimensions: Annotated[int | None, typer.Option(help="Keep the first so many dimensions.")] = None,
    truncate: _Truncate = False,
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Make one vector of each text, and show how similar the texts are (--json: the vectors)."""
    with Client(gateway) as client:
        name = choose_model(client, model, Task.EMBED).name
        reply = client.embed(name, texts, dimensions=dimensions, truncate=truncate or None)
    _show(reply, as_json, tables.similarities(texts, reply.embeddings))


def score(
    continuation: Annotated[list[str], typer.Option(help="What may follow; repeat it to compare several.")],
    context: Annotated[
        str, typer.Option(help="What stands before. Without it a continuation needs two tokens or more.")
    ] = "",
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Tell how likely a model finds continuations of a context."""
    with Client(gateway) as client:
        name = choose_model(client, model, Task.SCORE).name
        reply = client.score(name, [(context, text) for text in continuation])
    _show(reply, as_json, tables.scores(continuation, reply.scores))


def classify(
    texts: _Texts,
    *,
    label: Annotated[
        list[str] | None, typer.Option(help="Choose among such labels; repeat it. For models without own labels.")
    ] = None,
    pair: Annotated[list[str] | None, typer.Option(help="Second texts, one for each text.")] = None,
    raw: _Raw = False,
    truncate: _Truncate = False,
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Give each text a probability for each label: of the model's own, or of those that are named."""
    with Client(gateway) as client:
        name = choose_model(client, model, Task.SCORE if label else Task.CLASSIFY).name
        reply = client.classify(
            name, texts, pairs=pair or (), labels=label or (), raw=raw or None, truncate=truncate or None
        )
    _show(reply, as_json, tables.classifications(texts, reply.labels, reply.classifications))


def rerank(
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    documents: Annotated[list[str], typer.Argument(metavar="DOCUMENT…", help="What may hold it.")],
    *,
    top_n: Annotated[int | None, typer.Option(help="Show the best so many.")] = None,
    raw: _Raw = False,
    truncate: _Truncate = False,
    model: options.Model = "",
    as_json: options.Json = False,
    gateway: options.Gateway = options.DEFAULT_GATEWAY,
) -> None:
    """Order documents by their relevance to a query."""
    with Client(gateway) as client:
        name = choose_model(client, model, Task.RERANK).name
        reply = client.rerank(name, query, documents, top_n=top_n, raw=raw or None, truncate=truncate or None)
    _show(reply, as_json, tables.ranking(documents, reply.ranking))


def _show(reply: InferReply, as_json: bool, table: Table) -> None:
    if as_json:
        print_json(reply)
        return
    tables.console().print(table)
    print_account(reply.usage, reply.timings, reply.placement)
