"""One rank's process: `python -m bench.gpu.rank FOLDER RANK NUM_DEVICES DEADLINE_S SETTINGS`; started by `launch`."""

import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from bench.gpu.clock import make_clock
from bench.gpu.data_plane import DataPlane
from bench.gpu.decode import Decode
from bench.gpu.measured import Bench, depth_control
from bench.gpu.meeting import Meeting
from bench.gpu.profile import profile_rows
from bench.gpu.rank_engine import Engines
from bench.gpu.settings import Settings
from bench.gpu.testbed import device_of, exchange_name
from controller.core.cost_model import CostModel
from liger.errors import LigerError
from liger.lifecycle import EXIT_FAILED

_SHAPE_S = 30.0  # that a shape may take to begin, about


def main(argv: Sequence[str]) -> int:
    """Run this rank's part and return the exit code."""
    folder, rank, num_devices, deadline_s, text = argv
    settings = Settings.from_json(text)
    meeting = Meeting(Path(folder), rank=int(rank), world_size=settings.ranks, deadline_s=float(deadline_s))
    try:
        _run(settings, meeting, Path(folder), int(num_devices))
    except LigerError as error:
        print(f"error: {error.message}", flush=True)
        return EXIT_FAILED
    with suppress(LigerError):  # another may have left already: all is measured
        meeting.meet()
    return 0


def end(argv: Sequence[str]) -> NoReturn:
    """Run this rank's part and end the process at once: what its libraries' threads still do must not matter."""
    code = EXIT_FAILED
    try:
        code = main(argv)
    except BaseException:  # noqa: BLE001 - told, and then over
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(settings: Settings, meeting: Meeting, folder: Path, num_devices: int) -> None:
    device = device_of(settings, meeting.rank, num_devices)
    if device != "cpu":
        torch.cuda.set_device(device)
        meeting.record("device", {"name": torch.cuda.get_device_name(device), "torch": torch.__version__})
    own = folder / f"rank-{meeting.rank}"
    for shape in settings.shapes:
        if not meeting.has_time_for(_SHAPE_S):
            meeting.tell(f"{shape}: left out, the time is over")
            continue
        engines = Engines(settings, shape, own, device, meeting)
        try:
            _run_shape(shape, settings, meeting, engines, num_devices)
        finally:
            engines.close()
        shutil.rmtree(own, ignore_errors=True)


def _run_shape(shape: str, settings: Settings, meeting: Meeting, engines: Engines, num_devices: int) -> None:
    name = exchange_name(settings, num_devices=num_devices)
    meeting.tell(f"{shape}: making weights and joining by {name}")
    exchange = engines.get(name)
    meeting.tell(f"{shape}: measuring the profile")
    table = exchange.profile(lambda *_: None)
    if "profile" in settings.parts:
        for row in profile_rows(shape, name, table):
            meeting.record("profile", row)
    costs = CostModel(table)
    bench = Bench(
        name=shape,
        settings=settings,
        meeting=meeting,
        engines=engines,
        clock=make_clock(engines.device),
        exchange=exchange,
        costs=costs,
        depth=depth_control(exchange, costs),
        num_devices=num_devices,
    )
    if "data-plane" in settings.parts:
        DataPlane(bench).run()
    if "decode" in settings.parts:
        Decode(bench).run()


if __name__ == "__main__":
    end(sys.argv[1:])
