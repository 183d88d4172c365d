"""What an epoch leaves behind on a rank: nothing that the next one needs memory for."""

import gc
import weakref
from typing import Any

import pytest

import worker.engine
from liger.errors import LigerError
from tests.support.interleaving import Layout, generation
from tests.support.rank_group import running_group
from tests.support.tiny_models import MakeModel, token_ids


def test_keys_and_values_are_gone_when_a_rank_has_left(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tiny_model("llama")
    caches: list[weakref.ref[Any]] = []
    allocate = worker.engine.allocate_cache

    def noted(*given: Any) -> Any:
        cache = allocate(*given)
        caches.append(weakref.ref(cache.keys[0]))
        return cache

    monkeypatch.setattr(worker.engine, "allocate_cache", noted)
    gc.disable()  # which runs when it likes
    try:
        with running_group(folder) as group:
            (prompt,) = token_ids(9)
            group.run_all(Layout(group.forwards, [generation({0: prompt}, 3)], tp_size=1).serial())
            assert [cache() is not None for cache in caches] == [True]
        assert [cache() is not None for cache in caches] == [False]
    finally:
        gc.enable()


def test_a_rank_whose_device_is_lost_still_lets_go_of_its_connections(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tiny_model("llama")
    closed: list[bool] = []

    def lose() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with …")

    with running_group(folder) as group:
        (engine,) = group._engines
        with monkeypatch.context() as patch:
            patch.setattr(engine._device, "leave", lose)
            patch.setattr(engine._connections.stage, "close", lambda: closed.append(True))
            with pytest.raises(LigerError, match=r"illegal memory access was encountered\); .* started again"):
                engine.leave()
        assert closed == [True]
