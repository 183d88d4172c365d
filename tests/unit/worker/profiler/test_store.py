import logging

import pytest

from liger.domain import BatchKind, SegmentKind
from liger.profile import ContentionSample, ExchangeChoice, ProfileTable, SegmentSample
from worker.profiler.store import ProfileStore, table_digest

TABLE = ProfileTable(
    key="model a; dtype float32",
    activation_bytes=64,
    segments=(
        SegmentSample(batch=BatchKind.DECODE, segment=SegmentKind.MLP, num_tokens=4, context=32, duration_ns=1234),
        SegmentSample(batch=None, segment=SegmentKind.ALL_REDUCE, num_tokens=1, context=0, duration_ns=2**40),
    ),
    contention=(
        ContentionSample(
            compute=SegmentKind.MLP,
            compute_tokens=32,
            communication_bytes=1 << 20,
            compute_factor=1.123457,
            communication_factor=4.0,
        ),
    ),
    exchange_choices=(
        ExchangeChoice(
            num_tokens=64, is_beside_compute=True, communicator="copy-engine", duration_ns=5, delay_ns=1, is_chosen=True
        ),
        ExchangeChoice(num_tokens=64, is_beside_compute=True, communicator="nccl", duration_ns=6),
    ),
)


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_what_is_kept_is_found_again_bit_for_bit(tmp_path):
    ProfileStore(tmp_path / "new").keep(TABLE)
    found = ProfileStore(tmp_path / "new").find(TABLE.key)
    assert found == TABLE
    assert table_digest(found) == table_digest(TABLE)


def test_nothing_is_found_under_another_key(tmp_path):
    store = ProfileStore(tmp_path)
    store.keep(TABLE)
    assert store.find("model b") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "x"}', '{"no": "profile"}', "\x00\xff"])
def test_a_broken_file_is_told_of_and_left_out(tmp_path, caplog, content):
    store = ProfileStore(tmp_path)
    store.keep(TABLE)
    only_file(tmp_path).write_text(content, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert store.find(TABLE.key) is None
    assert "measured again" in caplog.text


def test_a_file_of_something_else_is_told_of_and_left_out(tmp_path, caplog):
    store = ProfileStore(tmp_path)
    store.keep(TABLE)
    path = only_file(tmp_path)
    path.write_text(path.read_text().replace("model a", "model b"))
    assert store.find(TABLE.key) is None
    assert "of something else" in caplog.text


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    ProfileStore(tmp_path / "file").keep(TABLE)
    assert "cannot be kept" in caplog.text


def test_no_table_has_the_digest_of_none():
    assert table_digest(None) == 0
    assert 0 < table_digest(TABLE) < 2**56
