"""What is read of a folder beside its weights: shape, tasks, labels, ends, pooling, windows, fingerprint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from liger.domain import Pooling, Task
from liger.errors import ModelFolderError
from tests.support.tiny_models import BASES, CLASSIFIERS, DECODERS, MODELS, MakeModel, copy_model, rewrite_config
from worker.shards.families.registry import ARCHITECTURES
from worker.shards.folder import fingerprint, read_spec
from worker.shards.spec import ModelSpec


def add_sentence_settings(folder: Path, pooling: dict[str, Any], *modules: str) -> None:
    kinds = ["Transformer", "Pooling", *modules]
    table = [
        {"idx": n, "path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(table))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 36, **pooling}))


@pytest.fixture
def minilm_like(tiny_model: MakeModel, tmp_path: Path) -> Path:
    return copy_model(tiny_model("bert-base")[0], tmp_path / "minilm")


@pytest.fixture
def llama(tiny_model: MakeModel, tmp_path: Path) -> Path:
    return copy_model(tiny_model("llama")[0], tmp_path / "llama")


def test_every_architecture_that_is_served_is_tested_or_shares_its_family_and_head() -> None:
    tested = {(ARCHITECTURES[name].family.read, ARCHITECTURES[name].head) for name, _ in MODELS.values()}
    untested = {name for name, kind in ARCHITECTURES.items() if (kind.family.read, kind.head) not in tested}
    assert untested == {
        *("MistralModel", "Qwen2Model", "Qwen3Model"),
        *("MistralForSequenceClassification", "Qwen2ForSequenceClassification"),
    }


@pytest.mark.parametrize("name", DECODERS)
def test_causal_models_generate_score_and_embed(name: str, tiny_model: MakeModel) -> None:
    spec = read_spec(tiny_model(name)[0])
    assert spec.tasks == (Task.GENERATE, Task.SCORE, Task.EMBED)
    assert (spec.causal, spec.default_pooling, spec.default_normalize) == (True, Pooling.LAST, False)


@pytest.mark.parametrize("name", BASES)
def test_base_models_embed(name: str, tiny_model: MakeModel) -> None:
    assert read_spec(tiny_model(name)[0]).tasks == (Task.EMBED,)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_rerank_if_they_have_one_label(name: str, tiny_model: MakeModel) -> None:
    spec = read_spec(tiny_model(name)[0])
    assert Task.CLASSIFY in spec.tasks
    assert (Task.RERANK in spec.tasks) == name.endswith("cross-encoder") == (len(spec.labels) == 1)
    assert spec.classifier_pooling is (Pooling.LAST if spec.causal else Pooling.CLS)


@pytest.mark.parametrize(
    "name",
    [
        *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "OPTForCausalLM"),
        *("GPT2LMHeadModel", "BertModel", "RobertaModel", "XLMRobertaModel"),
    ],
)
def test_missing_settings_mean_what_they_mean_to_transformers(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, name).config_class(architectures=[name]).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = read_spec(tmp_path)
    always_written = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "eos_token_id")
    kept = {key: config[key] for key in (*always_written, "num_hidden_layers", "num_attention_heads") if key in config}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    assert read_spec(tmp_path) == whole


def test_a_folder_is_read_without_torch() -> None:
    check = "import sys, worker.shards.folder; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_shape_is_read(llama: Path) -> None:
    spec = read_spec(llama)
    assert (spec.architecture, spec.hidden_size, spec.num_layers, spec.num_heads) == ("LlamaForCausalLM", 36, 3, 9)
    assert (spec.num_kv_heads, spec.head_dim, spec.ffn_size, spec.vocab_size) == (3, 4, 67, 131)
    assert (spec.max_length, spec.num_token_types, spec.output_size) == (64, 0, 36)


def test_outputs_of_a_model_with_narrow_embeddings_are_narrow(tiny_model: MakeModel) -> None:
    spec = read_spec(tiny_model("opt-350m")[0])
    assert (spec.hidden_size, spec.output_size) == (36, 20)


@pytest.mark.parametrize(("name", "longest"), [("bert-base", 64), ("roberta-base", 62), ("opt", 64), ("gpt2", 64)])
def test_longest_length_leaves_out_rows_of_the_position_table_before_the_first(
    name: str, longest: int, tiny_model: MakeModel
) -> None:
    assert read_spec(tiny_model(name)[0]).max_length == longest


def test_labels_are_read_in_order_of_their_class(tiny_model: MakeModel, tmp_path: Path) -> None:
    labels = {"2": "neutral", "0": "bad", "1": "good", "3": "odd", "4": "even"}
    folder = copy_model(tiny_model("bert-classifier")[0], tmp_path, id2label=labels)
    assert read_spec(folder).labels == ("bad", "good", "neutral", "odd", "even")


def test_labels_without_names_are_numbered(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("bert-classifier")[0], tmp_path, id2label=None, num_labels=3)
    assert read_spec(folder).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_labels_with_gaps_are_refused(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("bert-classifier")[0], tmp_path, id2label={"0": "bad", "2": "good"})
    with pytest.raises(ModelFolderError, match="id2label"):
        read_spec(folder)


@pytest.mark.parametrize(("problem", "multi"), [("multi_label_classification", True), (None, False)])
def test_several_labels_hold_at_once_if_the_config_says_so(
    problem: str | None, multi: bool, tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model(tiny_model("bert-classifier")[0], tmp_path, problem_type=problem)
    assert read_spec(folder).multi_label is multi


def test_ends_come_from_the_generation_config_first(llama: Path) -> None:
    rewrite_config(llama, eos_token_id=7)
    (llama / "generation_config.json").unlink()
    assert read_spec(llama).eos_token_ids == (7,)
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    assert read_spec(llama).eos_token_ids == (3, 5)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, Pooling.MEAN),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, Pooling.CLS),
        ({"pooling_mode_lasttoken": True}, Pooling.LAST),
        ({"pooling_mode": "cls"}, Pooling.CLS),
    ],
)
def test_pooling_is_that_of_sentence_transformers(
    pooling: dict[str, Any], expected: Pooling, minilm_like: Path
) -> None:
    add_sentence_settings(minilm_like, pooling, "Normalize")
    spec = read_spec(minilm_like)
    assert (spec.default_pooling, spec.default_normalize) == (expected, True)


def test_embeddings_keep_their_length_without_a_normalize_module(minilm_like: Path) -> None:
    add_sentence_settings(minilm_like, {"pooling_mode_mean_tokens": True})
    assert read_spec(minilm_like).default_normalize is False


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
        {"pooling_mode": "weightedmean"},
    ],
)
def test_other_poolings_are_refused(pooling: dict[str, Any], minilm_like: Path) -> None:
    add_sentence_settings(minilm_like, pooling)
    with pytest.raises(ModelFolderError, match=r"pools by .* not served"):
        read_spec(minilm_like)


def test_modules_after_pooling_are_refused(minilm_like: Path) -> None:
    add_sentence_settings(minilm_like, {"pooling_mode_mean_tokens": True}, "Dense")
    with pytest.raises(ModelFolderError, match="module Dense"):
        read_spec(minilm_like)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"a": 1}'])
def test_a_damaged_list_of_modules_is_refused(content: str, minilm_like: Path) -> None:
    (minilm_like / "modules.json").write_text(content)
    with pytest.raises(ModelFolderError, match="no list of modules"):
        read_spec(minilm_like)


def windows(folder: Path, target: Path, **changes: Any) -> tuple[int | None, ...]:
    spec: ModelSpec = read_spec(copy_model(folder, target, **changes))
    return spec.sliding_windows


def test_windows_of_qwen_are_by_layer(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, _ = tiny_model("qwen2-windows")
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(folder, tmp_path, layer_types=None) == (None, 6, 6)
    assert windows(folder, tmp_path, layer_types=kinds) == (6, None, 6)
    assert windows(folder, tmp_path, use_sliding_window=False) == (None, None, None)


def test_windows_of_mistral_are_alike_in_all_layers(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, _ = tiny_model("mistral")
    assert windows(folder, tmp_path) == (5, 5, 5)
    assert windows(folder, tmp_path / "default", sliding_window=None) == (4096, 4096, 4096)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"sliding_window": None}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_spec(tmp_path).sliding_windows == (None, None, None)


@pytest.mark.parametrize(
    "kinds", [["full_attention"], ["full_attention", "chunked_attention", "full_attention"], "full_attention"]
)
def test_layer_kinds_that_are_not_served_are_refused(kinds: object, tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("qwen2-windows")[0], tmp_path, layer_types=kinds)
    with pytest.raises(ModelFolderError, match="layer_types"):
        read_spec(folder)


def test_equal_folders_have_equal_fingerprints(llama: Path, tmp_path: Path) -> None:
    copied = copy_model(llama, tmp_path / "copy")
    assert fingerprint(copied) == fingerprint(llama)
    assert len(bytes.fromhex(fingerprint(llama))) == 32


def test_another_config_or_other_tensors_change_the_fingerprint(
    llama: Path, tiny_model: MakeModel, tmp_path: Path
) -> None:
    other_config = copy_model(llama, tmp_path / "a", rms_norm_eps=1e-3)
    other_tensors = copy_model(llama, tmp_path / "b")
    shutil.copy(tiny_model("qwen2")[0] / "model.safetensors", other_tensors / "model.safetensors")
    assert len({fingerprint(folder) for folder in (llama, other_config, other_tensors)}) == 3
