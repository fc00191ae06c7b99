"""A policy's network as ``policy.onnx``, for servers that are not Python; checked against the policy itself.

What it reads is what the policy reads: for a learned policy the observation that ``ObservationSpec`` describes in
``config.json``, for RADAR's the confidences of all levels so far.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radar_rl.errors import ArtifactError, ConfigError
from radar_rl.policies import LearnedPolicy, Policy, RadarPolicy, SampledRadar
from radar_rl.policies.recurrent import LOWEST
from radar_rl.runtime.artifact import ONNX_FILE

TOLERANCE = 1e-6  # of an output's size, where that is more than 1
CHECKED = 512  # random observations


class ValueNetwork(nn.Module):
    """A learned policy's network: continue where the second value exceeds the first.

    Args:
        policy: whose weights.
    """

    inputs, outputs = "observation", "values"

    def __init__(self, policy: LearnedPolicy) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for weight, bias in policy.layers:  # weight [in, out]
            layers += [_linear(weight.T, bias), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, observation: Tensor) -> Tensor:
        """[N, size] float32 → [N, 2] in the order stop, continue."""
        values: Tensor = self.layers(observation)
        return values


class StopNetwork(nn.Module):
    """RADAR's network: stop where the probability is at least one half, or with it.

    Args:
        policy: whose weights.
    """

    inputs, outputs = "states", "stop_probability"

    def __init__(self, policy: RadarPolicy) -> None:
        super().__init__()
        named = {name: torch.from_numpy(np.array(values)) for name, values in policy.weights.items()}
        recurrent = {name.removeprefix("lstm."): values for name, values in named.items() if name.startswith("lstm.")}
        self.lstm = nn.LSTM(policy.top_k, named["lstm.weight_hh_l0"].shape[1], batch_first=True)
        self.lstm.load_state_dict(recurrent, strict=True)
        self.inner = _linear(policy.weights["mlp.0.weight"], policy.weights["mlp.0.bias"])
        self.outer = _linear(policy.weights["mlp.3.weight"], policy.weights["mlp.3.bias"])

    def forward(self, states: Tensor) -> Tensor:
        """[B, L, top_k] float32 → [B, L], element ℓ − 1 for stopping after call ℓ."""
        read = states.clamp_min(float(LOWEST))
        hidden, _ = self.lstm(read)
        logits = self.outer(self.inner(torch.cat((hidden, read), dim=-1)).relu())
        stop: Tensor = logits.softmax(dim=-1)[..., 0]
        return stop


def write_onnx(folder: Path, policy: Policy) -> Path:
    """Write ``policy.onnx``, run it, and compare it with torch and with the policy's own NumPy.

    Args:
        folder: where to.
        policy: a learned policy, or one of RADAR's.

    Returns:
        The file.

    Raises:
        ArtifactError: the policy has no network, or the file computes something else.
        ConfigError: the packages of the extra ``onnx`` are missing.
    """
    network, expected, shape, axes = network_of(policy)
    described, runtime = _package("onnx_ir"), _package("onnxruntime")
    _package("onnxscript")
    network = network.eval()
    with _quietly():
        dynamic = ({axis: torch.export.Dim(name, min=1) for axis, name in enumerate(axes)},)
        example = (torch.zeros([2] * len(axes) + list(shape)),)
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=[network.inputs],
            output_names=[network.outputs],
            verbose=False,
        )
    assert program is not None
    # Of an LSTM's outputs the exporter takes the example's length for every length.
    for node in program.model.graph:
        for value in node.outputs:
            value.shape = None
    (output,) = program.model.graph.outputs
    output.shape = described.Shape([*axes, *([2] if len(axes) == 1 else [])])
    path = folder / ONNX_FILE
    temporary = path.with_name(f".{path.name}.tmp")
    program.save(str(temporary), external_data=False)
    try:
        _check(runtime, temporary, network, expected, shape, len(axes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def network_of(policy: Policy) -> tuple[Any, Any, tuple[int, ...], tuple[str, ...]]:
    """The network, the policy's own function, the sizes of an input's last axes, the names of the others.

    Raises:
        ArtifactError: the policy has none.
    """
    if isinstance(policy, LearnedPolicy):
        return ValueNetwork(policy), policy.network, (policy.spec.size,), ("states",)
    if isinstance(policy, SampledRadar):
        policy = policy.policy
    if isinstance(policy, RadarPolicy):
        return StopNetwork(policy), policy.stop_probability, (policy.top_k,), ("texts", "levels")
    raise ArtifactError(f"policy {policy.name}: a rule has no network to write as ONNX; export it without onnx=true")


def _check(runtime: ModuleType, path: Path, network: Any, expected: Any, shape: tuple[int, ...], axes: int) -> None:
    """Compare three ways of computing the same on random observations.

    Raises:
        ArtifactError: two of them differ by more than ``TOLERANCE``.
    """
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for sizes in ([CHECKED], [1]) if axes == 1 else ([CHECKED // 8, 8], [1, 1], [3, 11]):
        seen = -generator.gamma(1.0, 3.0, size=(*sizes, *shape)).astype(np.float32)
        there: NDArray[np.float32] = session.run([network.outputs], {network.inputs: seen})[0]
        with torch.inference_mode():
            ours = {"torch": network(torch.from_numpy(seen)).numpy(), "NumPy": expected(seen)}
        for name, values in ours.items():
            apart = float(np.abs(there - values).max() / max(1.0, float(np.abs(values).max())))
            if there.shape != values.shape or not apart <= TOLERANCE:
                raise ArtifactError(
                    f"{path.parent / ONNX_FILE}: not written: its outputs differ by {apart:.1e} from the policy's in "
                    f"{name}, expected at most {TOLERANCE:.0e}"
                )


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Linear:
    out, into = weight.shape
    linear = nn.Linear(into, out)
    linear.load_state_dict({"weight": torch.from_numpy(np.array(weight)), "bias": torch.from_numpy(np.array(bias))})
    return linear


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"onnx=true needs the package {name}: pip install 'radar-rl[onnx]' ({error})") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter tells its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
