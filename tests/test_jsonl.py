import gzip
from pathlib import Path

import pytest

from radar_rl.errors import InputError
from radar_rl.jsonl import read_jsonl


def test_plain_and_gzipped_rows_are_read(tmp_path: Path) -> None:
    text = '{"id": "a", "prompt": "Grüße"}\n\n{"id": "b"}\n'.encode()
    (tmp_path / "rows.jsonl").write_bytes(text)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text))
    rows = [{"id": "a", "prompt": "Grüße"}, {"id": "b"}]
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows
    assert list(read_jsonl(tmp_path / "rows.jsonl.gz")) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}\n{"id": \n', ":2: not JSON"),
        (b'{"id": "\xff"}\n', ":1: not UTF-8"),
        (b"[1]\n", ":1: expected a JSON object, got list"),
        (b'\xef\xbb\xbf{"id": 1}\n', ":1: not JSON .*BOM"),
        (b'{"id": ' + b"9" * 5000 + b"}\n", ":1: not JSON .*digits"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_jsonl(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize("damage", [b"\x00" * 40, b""])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: bytes) -> None:
    whole = gzip.compress(b'{"id": "some words that take a few bytes"}\n' * 50)
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:20] + damage + whole[20 + len(damage) : -12])
    with pytest.raises(InputError, match="not a whole gzip file"):
        list(read_jsonl(tmp_path / "rows.jsonl.gz"))
