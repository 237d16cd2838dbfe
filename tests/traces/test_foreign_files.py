"""What is no trace is named with a way out; what is endless or a bomb is refused in no time."""

import gzip
import json
import os
import time

import pytest

from kv_cache_rl.traces import TraceError, detect, read
from kv_cache_rl.traces.files import digest, sources
from kv_cache_rl.traces.formats import RECORDS

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
FOREIGN = {
    "a Git LFS pointer": (POINTER, "git lfs pull"),
    "a web page": (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html></html>", "raw file"),
    "a web page, not": (b"<html><body>404</body></html>", "raw file"),
    "a server's error message": (b"404: Not Found", "check the address"),
    "a server's error": (b'{"message": "Not Found", "status": "404"}', "check the address"),
    "a Parquet file": (b"PAR1\x15\x04", "to_json('trace.jsonl', orient='records', lines=True)"),
    "packed twice": (gzip.compress(gzip.compress(b'{"timestamp": 5}')), "unpack it once"),
    "a ZIP archive or an Excel workbook": (b"PK\x03\x04\x14\x00", "save the sheet as CSV"),
    "a tar archive": (b"name".ljust(257, b"\0") + b"ustar\x0000", "tar -xf"),
    "binary data": (b"\x7fELF\x02\x01\x01\x00\x00\x00", "UTF-8"),
    "comments only": (b"# a\n# b\n", "at least one request"),
    "its columns: a, b": (b"a,b\n1,2\n", "docs/formats.md"),
    "its fields: input_len": (b'{"input_len": 5}', "docs/formats.md"),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_trace_is_named_with_a_way_out(tmp_path, what, pack):
    path = tmp_path / "trace.csv"
    data, remedy = FOREIGN[what]
    path.write_bytes(pack(data))
    with pytest.raises(TraceError) as caught:
        detect(path)
    assert what in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize("look", [detect, digest])
def test_endless_files_and_pipes_are_refused_before_they_are_read(tmp_path, look):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        with pytest.raises(TraceError, match="this is not a regular file; save the trace to a file first"):
            look(path)


@pytest.mark.parametrize("fill", [b"\n", b" \n", b"\r", b"\r\n", b" ", b"#\n", b"//\n\n"])
def test_a_small_packed_file_of_nothing_but_blanks_or_comments_is_refused_in_a_moment(tmp_path, fill):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(fill * 10_000_000) * 20)
    began = time.process_time()
    with pytest.raises(
        TraceError, match=r"1,000,000 blank lines|10,000 comments|longer than 67,108,864 bytes"
    ):
        list(read(path))
    assert time.process_time() - began < 20


def test_a_list_that_goes_on_without_objects_is_refused_in_a_moment(tmp_path):
    path = tmp_path / "bomb.gz"
    first = gzip.compress(b'[\n{"timestamp": 0, "input_length": 5, "hash_ids": [1]}\n')
    path.write_bytes(first + gzip.compress(b",\n" * 10_000_000) * 20)
    began = time.process_time()
    with pytest.raises(TraceError, match="1,000,000 lines without an object"):
        list(read(path))
    assert time.process_time() - began < 20


def test_a_folder_of_other_traces_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"timestamp": 0, "input_length": 5, "hash_ids": [1]}\n')
    with pytest.raises(TraceError, match="a folder of mooncake files; only Claude Code sessions"):
        detect(tmp_path)
    assert sources(tmp_path) == [tmp_path / "a.jsonl"]


def test_a_later_file_of_a_folder_that_is_no_session_is_named(tmp_path):
    session = {
        "id": "a",
        "requests": [{"t": 0, "type": "n", "in": 64, "out": 1, "hash_ids": [1]}],
        "block_size": 64,
    }
    (tmp_path / "a.json").write_text(json.dumps(session))
    (tmp_path / "b.json").write_text('{"notes": 1}')
    with pytest.raises(TraceError, match=r"b\.json, line 1, field 'id': the field is missing"):
        list(read(tmp_path))


def test_no_record_of_one_format_passes_for_another():
    records = {
        "lab": {"format": "kv-cache-rl trace", "kind": "requests"},
        "claude-code": {"id": "a", "requests": []},
        "sharegpt": {"id": "a", "conversations": []},
        "ragpulse": {"timestamp": "1", "input_length": 5, "hash_ids": {"history": [1]}},
        "bailian": {"chat_id": 1, "timestamp": 0.5, "input_length": 5, "hash_ids": [1]},
        "mooncake": {"timestamp": 0, "input_length": 5, "output_length": 1},
        "kv-events": {"event_id": 0, "data": {"removed": {"block_hashes": [12]}}},
    }
    assert list(records) == list(RECORDS)
    for name, record in records.items():
        assert next(known for known, fits in RECORDS.items() if fits(record)) == name


def test_hidden_files_of_a_folder_are_left_alone_and_empty_sessions_skipped(tmp_path):
    requests = [{"t": 0, "type": "n", "in": 64, "out": 1, "hash_ids": [1]}]
    (tmp_path / "._b.json").write_bytes(b"\0\5\x16\7\0\2")
    (tmp_path / "a.json").write_text(json.dumps({"id": "a", "requests": [], "block_size": 64}))
    (tmp_path / "b.json").write_text(json.dumps({"id": 7, "requests": requests, "block_size": 64}))
    assert sources(tmp_path) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert [one.id for one in read(tmp_path)] == ["7"]


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_named(tmp_path, encoding):
    path = tmp_path / "wide.jsonl"
    path.write_bytes('\ufeff{"timestamp": 0, "input_length": 5, "hash_ids": [1]}\n'.encode(encoding))
    with pytest.raises(TraceError, match="this is a text in UTF-32; save it as UTF-8"):
        detect(path)
