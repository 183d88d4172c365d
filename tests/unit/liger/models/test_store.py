import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from liger.errors import ModelFolderError
from liger.models import silent, store
from tests.unit.liger.models.folders import write_folder

ORIGIN = {"package": "a==1"}


def test_a_folder_appears_whole_and_notes_where_it_came_from(tmp_path):
    folder = store.keep(tmp_path / "models" / "a", ORIGIN, write_folder, progress=silent)

    assert folder == tmp_path / "models" / "a"
    assert store.origin_of(folder) == ORIGIN
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == ["a"]


def test_a_kept_folder_is_not_built_again(tmp_path):
    built = []

    def build(part):
        built.append(part)
        write_folder(part)

    for _ in range(2):
        store.keep(tmp_path / "a", ORIGIN, build, progress=silent)
    assert len(built) == 1


def test_a_folder_of_another_origin_is_built_again(tmp_path):
    store.keep(tmp_path / "a", ORIGIN, write_folder, progress=silent)

    store.keep(tmp_path / "a", {"package": "a==2"}, write_folder, progress=silent)

    assert store.origin_of(tmp_path / "a") == {"package": "a==2"}


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: os.truncate(file, 20)])
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    store.keep(tmp_path / "a", ORIGIN, write_folder, progress=silent)
    damage(tmp_path / "a" / "model.safetensors")

    store.keep(tmp_path / "a", ORIGIN, write_folder, progress=silent)

    assert store.is_kept(tmp_path / "a", ORIGIN)


def test_what_an_interrupted_build_left_is_removed_and_the_work_redone(tmp_path):
    leavings = tmp_path / ".a.part-dead"
    write_folder(leavings)

    store.keep(tmp_path / "a", ORIGIN, write_folder, progress=silent)

    assert not leavings.exists()
    assert (tmp_path / "a" / "config.json").is_file()


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def fail(part: Path) -> None:
        (part / "config.json").write_text("{}")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        store.keep(tmp_path / "a", ORIGIN, fail, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]


def test_an_incomplete_build_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"config\.json is missing"):
        store.keep(tmp_path / "a", ORIGIN, lambda part: None, progress=silent)
    assert not (tmp_path / "a").exists()


def test_a_second_builder_waits_and_then_finds_the_folder(tmp_path):
    waiting, builds = threading.Event(), []

    def second() -> None:
        store.keep(tmp_path / "a", ORIGIN, builds.append, progress=lambda phase, fraction: waiting.set())

    other = threading.Thread(target=second)

    def first(part: Path) -> None:
        other.start()
        assert waiting.wait(timeout=30)
        write_folder(part)

    store.keep(tmp_path / "a", ORIGIN, first, progress=silent)
    other.join(timeout=30)
    assert not other.is_alive()
    assert builds == []


def test_a_disk_that_fills_up_names_the_place_and_the_setting(tmp_path):
    def fill(part: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part / "model.safetensors"))

    with pytest.raises(ModelFolderError, match=r"disk of .* is full; free some, or set LIGER_HOME"):
        store.keep(tmp_path / "a", ORIGIN, fill, progress=silent)


def test_too_little_disk_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000_000))

    with pytest.raises(ModelFolderError, match="1 MB are free, 750 MB are needed"):
        store.keep(tmp_path / "a", ORIGIN, write_folder, needed_bytes=750_000_000, progress=silent)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ModelFolderError, match="set LIGER_HOME to a folder you may write"):
        store.keep(tmp_path / "file" / "a", ORIGIN, write_folder, progress=silent)


def test_home_is_liger_home_else_the_users_cache(monkeypatch):
    monkeypatch.setenv("LIGER_HOME", "/srv/liger")
    assert store.liger_home() == Path("/srv/liger")
    monkeypatch.delenv("LIGER_HOME")
    assert store.liger_home() == Path.home() / ".cache" / "liger"
