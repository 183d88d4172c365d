import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from liger.models.store import models_root
from tests.support.masked_drawing import Outputs
from tests.unit.gateway.folders import byte_level
from worker.structured.matchers import Matchers

PAD = 13  # vocabulary ids that the model has and its tokenizer has not


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "tokenizer.json").write_text(byte_level().to_str(), encoding="utf-8")
    return folder


@pytest.fixture
def make_outputs() -> Iterator[Callable[..., Outputs]]:
    made: list[Matchers] = []

    def make(folder: Path, eos_token_ids: tuple[int, ...] = (0, 2)) -> Outputs:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        size = tokenizer.get_vocab_size() + PAD
        made.append(Matchers(folder=folder, vocabulary_size=size, eos_token_ids=eos_token_ids))
        return Outputs(made[-1], tokenizer, eos_token_ids)

    yield make
    for matchers in made:
        matchers.close()


@pytest.fixture
def outputs(make_outputs: Callable[..., Outputs], made_folder: Path) -> Outputs:
    return make_outputs(made_folder)


@pytest.fixture(scope="session")
def smollm2_folder() -> tuple[Path, tuple[int, ...]]:
    folder = models_root() / "smollm2-135m-instruct"
    if not folder.exists():
        pytest.skip(f"{folder} is missing: run `liger models pull smollm2-135m-instruct`")
    eos = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return folder, tuple(eos) if isinstance(eos, list) else (eos,)
