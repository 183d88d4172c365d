"""Tests that need a CUDA device. They import what needs triton or CUDA when they run, not before."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import MakeModel, model_maker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests below this folder, and skip them where there is no device."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Makes tiny models once a session: `folder, reference = tiny_model("llama")`."""
    return model_maker(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def exact_float32() -> None:
    """Keep matrix products of float32 in float32."""
    assert torch.get_float32_matmul_precision() == "highest"
