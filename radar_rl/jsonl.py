"""Rows of JSON lines, plain or gzipped: the one reader for prompts, texts and training sets."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from radar_rl.errors import InputError


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a UTF-8 JSON-lines file, ``.gz`` or not.

    Raises:
        InputError: the file is missing, is not UTF-8, or a line is not a JSON object; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}; expected JSON lines, one object a line (.jsonl or .jsonl.gz)")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as lines:
        for number, line in enumerate(_whole(lines, path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start})") from error
            except (ValueError, RecursionError) as error:  # numbers of thousands of digits are no JSONDecodeError
                raise InputError(f"{path}:{number}: not JSON ({getattr(error, 'msg', error)})") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
            yield row


def _whole(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from error
