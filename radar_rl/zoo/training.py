"""The training loop that target and heads share: Muon and AdamW, resumable, the same batches for the same seed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Log = Callable[[str], None]
LossOfStep = Callable[[int], tuple[Tensor, list[float]]]
"""A step's loss (with gradient) and further figures to report; depends on the step and the weights alone."""


@dataclass(frozen=True)
class Pace:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        learning_rate: the peak, after ``warmup`` steps; it then falls linearly to zero.
        weight_decay: of the matrices.
        save_every: steps between two states of a training that can be resumed.
    """

    steps: int
    learning_rate: float
    warmup: int
    weight_decay: float
    save_every: int


def run_steps(
    module: nn.Module, loss_of: LossOfStep, pace: Pace, state_file: Path, label: str, log: Log
) -> NDArray[np.float64]:
    """Train ``module``, from ``state_file`` on if there is one.

    Returns:
        Running means of the loss and of the further figures; empty if nothing was left to do.
    """
    chain = _optimizers(module, pace)
    first = 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(chain, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    running: NDArray[np.float64] = np.empty(0)
    for step in range(first, pace.steps):
        _set_learning_rate(chain, pace, step)
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in chain:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = np.array([loss.item(), *figures])
        running = 0.95 * running + 0.05 * now if len(running) else now
        if (step + 1) % 20 == 0:
            log(f"{label}: step {step + 1}/{pace.steps} " + " ".join(f"{value:.4f}" for value in running))
        if (step + 1) % pace.save_every == 0 or step + 1 == pace.steps:
            optimizers = [optimizer.state_dict() for optimizer in chain]
            save_state(state_file, {"module": module.state_dict(), "optimizers": optimizers, "step": step + 1})
    return running


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a killed process leaves the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _optimizers(module: nn.Module, pace: Pace) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024; updates scaled to AdamW's, Moonlight 2025) for matrices, AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if inner else others).append(parameter)
    rate = pace.learning_rate
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=pace.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _set_learning_rate(chain: list[torch.optim.Optimizer], pace: Pace, step: int) -> None:
    left = max(0.0, (pace.steps - step) / max(1, pace.steps - pace.warmup))
    for optimizer in chain:
        for group in optimizer.param_groups:
            group["lr"] = pace.learning_rate * min((step + 1) / pace.warmup, left)
