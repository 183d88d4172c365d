"""The Python client of Liger+: `Client` for plain code, `AsyncClient` for asyncio; both raise `liger.errors`.

    with Client("127.0.0.1:8600") as client:
        for text in client.generate("smollm2-135m-instruct", [Message("user", "Name three colours.")], max_tokens=64):
            print(text, end="")

Reading map: `results` (what comes back), `requests` (what is sent), `replies` (messages → results), `sync`, `aio`.
"""

from liger.client.aio import AsyncClient, AsyncGenerateStream
from liger.client.requests import CallOptions, GenerateOptions, Message
from liger.client.results import (
    Classification,
    ClassifyReply,
    Delta,
    EmbedReply,
    Finished,
    GenerateEvent,
    Model,
    Placement,
    Rank,
    RerankReply,
    Score,
    ScoreReply,
    Started,
    Summary,
    Timings,
    TokenizeReply,
    Usage,
)
from liger.client.sync import Client, GenerateStream

__all__ = [
    "AsyncClient",
    "AsyncGenerateStream",
    "CallOptions",
    "Classification",
    "ClassifyReply",
    "Client",
    "Delta",
    "EmbedReply",
    "Finished",
    "GenerateEvent",
    "GenerateOptions",
    "GenerateStream",
    "Message",
    "Model",
    "Placement",
    "Rank",
    "RerankReply",
    "Score",
    "ScoreReply",
    "Started",
    "Summary",
    "Timings",
    "TokenizeReply",
    "Usage",
]
