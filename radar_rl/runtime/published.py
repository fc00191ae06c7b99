"""RADAR's published weight files (``llama3.pt``, ``ds.pt``, ``vicuna.pt``): a PyTorch state dict becomes a policy."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from radar_rl.errors import ArtifactError
from radar_rl.policies.recurrent import RadarPolicy


def load_published(file: str | Path) -> RadarPolicy:
    """The policy in a file of the RADAR repository, strictly; only tensors are unpickled.

    It knows no pair and no hardware: what it was trained on is in the repository's words.

    Raises:
        ArtifactError: no state dict, or tensors are missing, unexpected, or of another shape.
    """
    path = Path(file)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path}: not a file of tensors alone, so it is not read: it could run code. Expected RADAR's weights, a "
            "PyTorch state dict"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as a PyTorch state dict ({_first_line(error)})") from error
    if not isinstance(weights, dict) or not all(isinstance(values, Tensor) for values in weights.values()):
        raise ArtifactError(f"{path}: expected a PyTorch state dict, tensors by name; got {type(weights).__name__}")
    try:
        arrays = {str(name): values.detach().to(torch.float32).numpy() for name, values in weights.items()}
        return RadarPolicy(f"radar-{path.stem}", arrays)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
