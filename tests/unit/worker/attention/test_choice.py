import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.attention.choice import choose_attention
from worker.attention.interface import AttentionShape
from worker.attention.library.varlen import VarlenAttention
from worker.attention.reference import ReferenceAttention


def make_shape(**changes: Any) -> AttentionShape:
    shape = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 64,
        "windows": (None,),
        "causal": True,
        "max_length": 64,
        "dtype": torch.bfloat16,
        "device": torch.device("cuda"),
    }
    return AttentionShape(**(shape | changes))


def kernel_without_tables(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Stands for torch 2.11's."""
    raise NotImplementedError


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel_without_tables)


@pytest.mark.parametrize(
    "changes", [{"device": torch.device("cpu")}, {"dtype": torch.float32}, {"head_dim": 12}, {"head_dim": 512}]
)
def test_what_no_kernel_takes_attends_by_the_reference(changes: dict[str, Any]) -> None:
    assert isinstance(choose_attention(make_shape(**changes)), ReferenceAttention)


def test_a_model_without_a_cache_needs_torch_alone(no_tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)  # importing it would fail
    attention = choose_attention(make_shape())
    assert isinstance(attention, VarlenAttention)
    assert attention.is_capturable


@pytest.mark.parametrize(("head_dim", "why"), [(64, "does not import"), (80, "no kernels for heads of 80")])
def test_what_is_missing_is_said_with_what_mends_it(
    head_dim: int, why: str, no_tables: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with caplog.at_level(logging.WARNING):
        attention = choose_attention(make_shape(block_size=16, head_dim=head_dim))
    assert isinstance(attention, VarlenAttention)
    (record,) = caplog.records
    assert why in record.getMessage()
    assert "pip install flashinfer-python" in record.getMessage()
