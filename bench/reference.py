"""transformers' own `generate` in a process of its own: what a user would run without Liger+.

Started as `python -m bench.reference FOLDER DTYPE`; reads lines of JSON ({ids, num_tokens}), writes tokens a second.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Reference:
    """The process, as its caller sees it.

    Args:
        folder: The model's.
        dtype: Such as float32.
        threads: Of torch and OpenMP.
    """

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        self._command = [sys.executable, "-m", "bench.reference", str(folder), dtype]
        self._environ = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, env=self._environ)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdin is not None, "entered before"  # noqa: PT018
        self._process.stdin.close()
        await self._process.wait()

    async def run(self, ids: tuple[int, ...], num_tokens: int) -> float:
        """Continue a prompt greedily and return tokens a second."""
        assert self._process is not None and self._process.stdin is not None, "entered before"  # noqa: PT018
        assert self._process.stdout is not None, "entered before"
        self._process.stdin.write(json.dumps({"ids": list(ids), "num_tokens": num_tokens}).encode() + b"\n")
        await self._process.stdin.drain()
        return float(await self._process.stdout.readline())


def _serve(folder: str, dtype: str) -> None:
    import torch  # noqa: PLC0415 - this module's other half must start without torch
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.eval()
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.tensor([request["ids"]])
        began_s = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=request["num_tokens"],
                max_new_tokens=request["num_tokens"],
                do_sample=False,
            )
        assert output.shape[1] == ids.shape[1] + request["num_tokens"], "every run makes the same number of tokens"
        print(request["num_tokens"] / (time.perf_counter() - began_s), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
