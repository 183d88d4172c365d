"""Profiles that workers find instead of measuring, so that plans do not depend on how busy the machine was."""

from dataclasses import replace
from pathlib import Path

from liger.profile import ProfileTable
from tests.support.forwards import FENCE
from tests.support.simulated_ranks import made_profile
from worker.communicator.gloo import GlooCommunicator
from worker.config import WorkerConfig
from worker.engine import Engine
from worker.profiler.identity import hardware_name, profile_key
from worker.profiler.store import ProfileStore
from worker.rank import JoinPlan


def keep_eager_profile(
    model_folder: Path, profile_folder: Path, *, num_layers: int, tp_size: int, max_batch_tokens: int, num_rows: int
) -> ProfileTable:
    """Keep a profile under which interleaving pays: exchanges are long, and lanes do not hinder one another.

    It is for the workers of one stage, of one thread each, that are started with such limits. Returns it.
    """
    engine = Engine(WorkerConfig(model_folder=model_folder, model_name="m", tp_size=tp_size, threads=1))
    try:
        plan = JoinPlan(
            fence=FENCE,
            tp_rank=0,
            tp_size=tp_size,
            pp_stage=0,
            pp_size=1,
            rendezvous_endpoint="",
            num_slots=1,
            max_batch_tokens=max_batch_tokens,
            num_rows=num_rows,
            stage_layers=(num_layers,),
        )
        key = profile_key(
            engine.card,
            plan,
            communicator=GlooCommunicator.__new__(GlooCommunicator),
            hardware=(hardware_name(engine.device),) * tp_size,
            tag="",
        )
    finally:
        engine.close()
    table = replace(made_profile(exchange_ns=30_000, floor_ns=300_000), key=key, activation_bytes=128)
    ProfileStore(profile_folder).keep(table)
    return table
