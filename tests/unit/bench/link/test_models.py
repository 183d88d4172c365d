import json

import pytest
import torch
from tokenizers import Tokenizer

from bench.link.models import make_model
from bench.link.work import VOCABULARY_SIZE, Load
from liger.domain import Task
from worker.shards.folder import fingerprint, read_spec
from worker.shards.loading import load_shard


@pytest.fixture(scope="module", params=list(Load))
def made(request, tmp_path_factory):
    return request.param, make_model(request.param, 128, 3, tmp_path_factory.mktemp("models"))


def test_ranks_and_stages_load_them(made):
    load, folder = made
    spec = read_spec(folder)
    assert (spec.hidden_size, spec.num_layers, spec.num_heads, spec.vocab_size) == (128, 3, 2, VOCABULARY_SIZE)
    assert (Task.EMBED if load is Load.DISCRIMINATIVE else Task.GENERATE) in spec.tasks
    assert spec.eos_token_ids == ()
    for rank in (0, 1):
        load_shard(folder, spec, tp_rank=rank, tp_size=2)
    for layers in (range(2), range(2, 3)):
        load_shard(folder, spec, tp_rank=0, tp_size=1, layers=layers, dtype=torch.float32)


def test_the_tokenizer_knows_every_id(made):
    tokenizer = Tokenizer.from_str((made[1] / "tokenizer.json").read_text())
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE
    assert tokenizer.encode("w7 w1023 strange").ids == [7, 1023, 0]
    assert tokenizer.decode([7, 1023]) == "w7 w1023"


def test_a_model_is_made_once_and_is_the_same_everywhere(made, tmp_path):
    load, folder = made
    (folder / "config.json").touch()
    before = (folder / "config.json").stat().st_mtime_ns
    assert make_model(load, 128, 3, folder.parent) == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert fingerprint(make_model(load, 128, 3, tmp_path)) == fingerprint(folder)


def test_models_of_other_sizes_lie_beside_one_another(tmp_path):
    folders = {make_model(load, 64, layers, tmp_path) for load in Load for layers in (1, 2)}
    assert len(folders) == 4
    assert all(json.loads((folder / "config.json").read_text())["hidden_size"] == 64 for folder in folders)
