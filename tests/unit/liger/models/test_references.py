import pytest

from liger.errors import ModelFolderError, ModelNotFoundError
from liger.models import list_models, pull, references, resolve, served_name
from tests.unit.liger.models.folders import write_folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(references.hub, "cached", list)


def test_a_folder_is_taken_where_it_lies(tmp_path):
    folder = write_folder(tmp_path / "My-Model")

    assert resolve(str(folder)) == folder
    assert pull(str(folder)).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("owner/model@main", "model"),
        ("/nowhere/Llama-3.Q4_1.gguf", "llama-3.q4_1"),
    ],
)
def test_a_served_name_has_no_path_owner_or_revision(reference, name):
    assert served_name(reference) == name


def test_a_folders_served_name_is_its_own_even_as_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path / "Tiny"))
    assert served_name(".") == "tiny"


def test_a_near_miss_is_guessed():
    with pytest.raises(ModelNotFoundError, match=r"did you mean smollm2-135m-instruct\?"):
        resolve("smollm2-135m-instrukt")


@pytest.mark.parametrize("reference", ["", "nothing", "./nowhere", "~/nowhere/at/all", "a/b/c"])
def test_a_name_of_nothing_says_what_may_be_given(reference):
    with pytest.raises(ModelNotFoundError, match="path of a Hugging Face folder"):
        resolve(reference) if reference else resolve("nothing at all")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    file = tmp_path / "model.bin"
    file.write_text("")
    with pytest.raises(ModelFolderError, match=r"neither a folder nor a \.gguf file"):
        resolve(str(file))


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"there is no file .*gone\.gguf"):
        resolve(str(tmp_path / "gone.gguf"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("config.json", b"{", r"config\.json cannot be read as JSON"),
        ("config.json", b"[]", r"config\.json holds no JSON object"),
        ("model.safetensors", None, r"holds no model\.safetensors"),
        ("model.safetensors", b"\x01", "not a safetensors file"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}more", "is 14 bytes where its header says 10"),
        ("model.safetensors", b"\xff" * 16, "not a safetensors file"),
    ],
)
def test_a_damaged_folder_says_which_file_and_what_mends_it(tmp_path, file, content, message):
    folder = write_folder(tmp_path / "a")
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)

    with pytest.raises(ModelFolderError, match=message):
        resolve(str(folder))


def test_a_sharded_folder_with_a_missing_shard_is_refused(tmp_path):
    folder = write_folder(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "model-1.safetensors"}}')
    assert resolve(str(folder)) == folder

    index.write_text('{"weight_map": {"w": "model-1.safetensors", "x": "model-2.safetensors"}}')
    with pytest.raises(ModelFolderError, match=r"model-2\.safetensors is missing"):
        resolve(str(folder))


def test_packaged_models_are_listed_before_they_are_brought():
    listed = {model.name: model for model in list_models()}

    assert set(listed) == {"smollm2-135m-instruct", "all-minilm-l6-v2"}
    assert all(model.folder is None for model in listed.values())
