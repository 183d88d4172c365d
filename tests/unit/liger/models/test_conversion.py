import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from liger.errors import ModelFolderError
from liger.models import resolve, silent
from liger.models.conversion import convert_gguf
from liger.models.conversion.weights import unpermute
from tests.unit.liger.models.gguf_files import permuted, write_gguf

QUANTISATION = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tensors(llama) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in llama.state_dict().items()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGER_HOME", str(tmp_path / "home"))


def test_a_converted_model_computes_what_its_source_computes(tmp_path, llama, tensors):
    folder = resolve(str(write_gguf(tmp_path / "tiny.gguf", tensors=tensors)))

    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    ids = torch.tensor([[1, 2, 3, 0, 2, 1]])
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, llama(ids).logits, rtol=0, atol=1e-6)


def test_a_file_is_converted_once_and_again_when_it_changed(tmp_path, tensors):
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors)
    first = resolve(str(file))
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert (resolve(str(file)) / "model.safetensors").stat().st_mtime_ns == made

    write_gguf(tmp_path / "tiny.gguf", tensors={**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1})
    assert (resolve(str(file)) / "model.safetensors").stat().st_mtime_ns != made


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        (QUANTISATION.F32, "float32"),
        (QUANTISATION.F16, "float16"),
        (QUANTISATION.BF16, "bfloat16"),
        (QUANTISATION.Q8_0, "float32"),
    ],
)
def test_weights_are_kept_exactly(tmp_path, tensors, quantisation, dtype):
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors, quantisation=quantisation)
    folder = tmp_path / "out"
    folder.mkdir()

    convert_gguf(file, folder, silent)

    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()  # widening is exact
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        expected = gguf.dequantize(gguf.quantize(tensors[name], quantisation), quantisation)
        np.testing.assert_array_equal(state[name].numpy(), expected)


def test_a_model_without_an_output_matrix_ties_it_to_the_embeddings(tmp_path, tensors):
    del tensors["lm_head.weight"]
    folder = resolve(str(write_gguf(tmp_path / "tied.gguf", tensors=tensors)))

    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")


@pytest.mark.parametrize("num_heads", [1, 3, 9])
def test_unpermute_undoes_llama_cpps_order(num_heads):
    rows = np.arange(num_heads * 8 * 5, dtype=np.float32).reshape(num_heads * 8, 5)

    np.testing.assert_array_equal(unpermute(permuted(rows, num_heads), num_heads), rows)
    np.testing.assert_array_equal(unpermute(permuted(rows[:, 0], num_heads), num_heads), rows[:, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "gemma"}, "holds a gemma model, and only the llama architecture"),
        ({"extra": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"pre": "deepseek-llm"}, "cuts text as deepseek-llm does"),
        ({"extra": {"llama.rope.scaling.type": "longrope"}}, "scales positions by longrope"),
        ({"tokens": ("a", "a")}, "spells two ids alike"),
        ({"tensors": {"strange": np.zeros((32, 32), np.float32)}}, "which no Llama model has"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, settings, message):
    file = write_gguf(tmp_path / "odd.gguf", **settings)

    with pytest.raises(ModelFolderError, match=message) as caught:
        resolve(str(file))
    assert "give the model as a Hugging Face folder instead" in caught.value.message


def test_a_truncated_file_is_refused(tmp_path, tensors):
    file = write_gguf(tmp_path / "cut.gguf", tensors=tensors)
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ModelFolderError, match="not a whole GGUF file"):
        resolve(str(file))


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "text.gguf"
    file.write_text("not a model")

    with pytest.raises(ModelFolderError, match="not a whole GGUF file"):
        resolve(str(file))


@pytest.mark.parametrize(("kind", "factor"), [("linear", 4.0), ("yarn", 2.0)])
def test_scaled_positions_are_told_in_the_configuration(tmp_path, tensors, kind, factor):
    extra = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": factor}
    folder = resolve(str(write_gguf(tmp_path / "long.gguf", tensors=tensors, extra=extra)))

    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == (kind, factor)


def llama3_table(rope_base: float) -> np.ndarray:
    parameters = {"rope_type": "llama3", "rope_theta": rope_base, "factor": 8.0, "low_freq_factor": 1.0}
    parameters |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=parameters)
    plain = rope_base ** (-np.arange(0, 8, 2) / 8)
    return (plain / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()).astype(np.float32)


def test_llama_3s_table_of_factors_becomes_its_parameters(tmp_path, tensors):
    tensors["rope_freqs.weight"] = llama3_table(500_000.0)
    folder = resolve(str(write_gguf(tmp_path / "three.gguf", tensors=tensors, rope_base=500_000.0)))

    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", pytest.approx(8.0))


def test_an_unknown_table_of_factors_is_refused(tmp_path, tensors):
    tensors["rope_freqs.weight"] = llama3_table(500_000.0) * np.float32(1.1)
    file = write_gguf(tmp_path / "three.gguf", tensors=tensors, rope_base=500_000.0)

    with pytest.raises(ModelFolderError, match="scales positions by a table of its own"):
        resolve(str(file))
