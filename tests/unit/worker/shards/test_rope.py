"""Rotary positions, in the words of old and new configurations, give what transformers gives."""

from pathlib import Path
from typing import Any

import pytest
import torch

from liger.errors import ModelFolderError
from tests.support.lockstep import Lockstep
from tests.support.tiny_models import MODELS, make_model, rewrite_config, token_ids
from worker.shards.folder import read_spec

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_type": "yarn", **YARN},
    "yarn-attention-factor": {"rope_type": "yarn", **YARN, "attention_factor": 1.5},
    "yarn-betas": {"rope_type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    "yarn-two-scales": {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
}


def wide_llama(folder: Path, **rope: Any) -> Any:
    """Make a model whose heads have enough dimensions to show where a scaling begins and ends."""
    class_name, settings = MODELS["llama"]
    return make_model(folder, class_name, {**settings, "head_dim": 32, **rope})


def assert_same_logits(folder: Path, model: Any) -> None:
    ranks = Lockstep(folder, 2)
    for ids, hidden in zip(token_ids(60, 9), ranks.encode(token_ids(60, 9)), strict=True):
        with torch.inference_mode():
            want = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(ranks.logits(hidden), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_positions_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = wide_llama(tmp_path, rope_parameters={**SCALINGS[name], "rope_theta": 500.0})
    assert_same_logits(tmp_path, model)


@pytest.mark.parametrize("name", SCALINGS)
def test_configurations_before_transformers_5_are_read_alike(name: str, tmp_path: Path) -> None:
    model = wide_llama(tmp_path, rope_parameters={**SCALINGS[name], "rope_theta": 500.0})
    scaling = dict(SCALINGS[name])
    scaling["type"] = scaling.pop("rope_type")
    rewrite_config(tmp_path, rope_parameters=None, rope_theta=500.0, rope_scaling=scaling)
    assert_same_logits(tmp_path, model)


def test_scalings_differ(tmp_path: Path) -> None:
    seen = []
    for name, scaling in SCALINGS.items():
        wide_llama(tmp_path / name, rope_parameters={**scaling, "rope_theta": 500.0})
        seen.append(Lockstep(tmp_path / name, 1).encode(token_ids(60))[0])
    for place, one in enumerate(seen):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in seen[:place])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic', which is not served"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "default, linear, llama3, yarn"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "for some layers"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1}}, "factor in .* is -1"),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 0.5}}, "high_freq_factor"),
        ({"rope_parameters": "yarn"}, "must be an object"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta"),
    ],
)
def test_positions_that_are_not_served_are_refused(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    wide_llama(tmp_path)
    rewrite_config(tmp_path, **changes)
    with pytest.raises(ModelFolderError, match=complaint):
        read_spec(tmp_path)
