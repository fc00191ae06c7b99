"""Checkpoint folders: where they are, what is in them, and who they are."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from radar_rl.errors import CheckpointError, InputError

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HASHED_WHOLE = 64 * 2**20
BLOCK = 2**20


def local_folder(name: str | Path) -> Path:
    """The folder of a checkpoint: a path as it is, a Hub id downloaded (or found in the cache).

    Raises:
        InputError: neither a folder nor a Hub id that can be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(
                str(name), allow_patterns=["*.json", "*.jinja", "*.model", *WEIGHTS], ignore_patterns=["consolidated*"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no model at {name!s}: not a folder here, and the Hub did not give it ({reason}); "
            "expected a folder with config.json and safetensors, a Hub id, or pocket"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        CheckpointError: missing or not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; expected the Hugging Face layout")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, sharded or not; safetensors, else ``.bin`` read without unpickling objects.

    Raises:
        CheckpointError: no weights, or a damaged file.
    """
    for pattern in WEIGHTS:
        files = sorted(folder.glob(pattern))
        if not files:
            continue
        tensors: dict[str, torch.Tensor] = {}
        for path in files:
            try:
                loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
                raise CheckpointError(f"{path}: damaged weights ({error})") from error
            tensors.update(loaded)
        return tensors
    raise CheckpointError(f"{folder}: no weights; expected model.safetensors (or pytorch_model.bin)")


def write_checkpoint(folder: Path, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint folder; ``config.json`` comes last, so a folder that has one is complete.

    Raises:
        InputError: there is something in the folder already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not an empty folder; name one to make")
    folder.mkdir(parents=True, exist_ok=True)
    # Tensors of a .bin may share memory, which safetensors refuses.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    weights, config = folder / ".model.safetensors.tmp", folder / ".config.json.tmp"
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    save_file(own, weights, metadata={"format": "pt"})
    weights.chmod(config.stat().st_mode)  # safetensors leaves it to its owner alone
    weights.replace(folder / "model.safetensors")
    config.replace(folder / "config.json")


def identity(name: str, folder: Path) -> str:
    """``NAME@HASH`` of the weights' bytes: files up to 64 MiB whole, larger ones by 64 blocks of 1 MiB."""
    digest = hashlib.sha256()
    files = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            if size <= HASHED_WHOLE:
                digest.update(file.read())
                continue
            for i in range(64):
                file.seek(i * (size - BLOCK) // 63)
                digest.update(file.read(BLOCK))
    return f"{name}@{digest.hexdigest()[:16]}"
