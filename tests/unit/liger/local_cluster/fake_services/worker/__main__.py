"""A worker that registers and waits; `--fault` makes it misbehave."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from liger.rpc.channel import open_channel
from liger.v1 import controller_pb2, types_pb2
from liger.v1.controller_pb2_grpc import ControllerServiceStub


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def misbehave(fault: str) -> None:
    """Do what the fault says before anything else."""
    if fault == "refuse":
        sys.stderr.write("error: --tp-size must be at least 1\n")
        sys.exit(2)
    if fault == "crash":
        raise RuntimeError("out of luck")
    if fault == "mute":
        signal.pause()
    if fault == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fault == "talkative":
        say("x" * 200_000)
    if fault == "parent":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        Path(os.environ["CHILD_PID_FILE"]).write_text(str(child.pid))


async def main() -> None:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    misbehave(flags.get("--fault", ""))
    say("worker listening on 127.0.0.1:1")
    sys.stderr.write(f"threads={os.environ['OMP_NUM_THREADS']} place={os.environ.get('PLACE')} flags={flags}\n")
    misbehave(flags.get("--late-fault", ""))
    async with open_channel(flags["--controller"]) as channel:
        request = controller_pb2.RegisterRequest(
            worker_id=str(os.getpid()),
            group=flags["--group"],
            model=types_pb2.ModelInfo(name=flags["--model-name"]),
            tp_size=int(flags["--tp-size"]),
            pp_size=int(flags["--pp-size"]),
            rank=int(flags["--rank"]),
        )
        await ControllerServiceStub(channel).Register(request)
        await asyncio.Event().wait()


asyncio.run(main())
