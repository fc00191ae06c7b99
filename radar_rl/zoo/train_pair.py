"""The verb ``train-pair``: remake the embedded pair, or make one like it, from a folder of text."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import LlamaForCausalLM

from radar_rl.errors import ConfigError
from radar_rl.speculative.pair import load_pair
from radar_rl.zoo.head import HeadTraining, train_head
from radar_rl.zoo.measure import measure_pair
from radar_rl.zoo.target import TargetTraining, train_target
from radar_rl.zoo.texts import Texts, generate_texts

T = TypeVar("T")
FINISHED = "training.json"


def train_pair(
    *,
    data: str,
    out: str,
    head: Literal["eagle3", "eagle2"],
    stage: Literal["all", "target", "head", "measure"],
    limit: int,
    epochs: dict[str, float],
    anneal_epochs: dict[str, float],
    target: dict[str, Any],
    texts: dict[str, Any],
    draft: dict[str, Any],
    seed: int,
) -> None:
    """Train a target, let it write texts, train a head on them, measure both; each stage resumes where it was cut.

    Args:
        data: folder of sets, ``NAME/train.jsonl[.gz]``; ``measure`` reads their eval splits.
        out: gets ``target/``, ``texts.npz`` and ``draft/`` (``draft_eagle2/`` for the EAGLE-2 format).
        stage: what to do; ``all`` trains both, ``measure`` writes ``measured.json`` into the head's folder.
        limit: prompts a task that ``measure`` decodes.
        epochs, anneal_epochs: how often each set is read by the target, at first and at last.
        target, draft: fields of ``TargetTraining`` and ``HeadTraining``.
        texts: arguments of ``generate_texts``.

    Raises:
        ConfigError: this torch lacks the Muon optimizer, or a stage's input is missing.
        InputError: a set is missing.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"train-pair needs torch ≥ 2.9 for torch.optim.Muon, this is {torch.__version__}")
    begin, folder = time.perf_counter(), Path(out)

    def log(line: str) -> None:
        print(f"{time.perf_counter() - begin:7.0f} s  {line}", flush=True)

    target_folder, texts_file = folder / "target", folder / "texts.npz"
    head_folder = folder / ("draft" if head == "eagle3" else "draft_eagle2")
    if stage == "measure":
        measure_pair(load_pair(target_folder, head_folder), Path(data), head_folder / "measured.json", limit=limit)
        return
    if stage in ("all", "target") and not (target_folder / FINISHED).is_file():
        mixtures = {"epochs": epochs, "anneal_epochs": anneal_epochs}
        settings = _settings(TargetTraining, target, seed=seed, **mixtures)
        train_target(Path(data), target_folder, settings, log)
    if stage == "target":
        return
    if not (target_folder / FINISHED).is_file():
        raise ConfigError(f"stage=head: no finished target in {target_folder}; run stage=target first")
    if not texts_file.is_file():
        generate_texts(target_folder, Path(data), log=log, seed=seed, **texts).save(texts_file)
    if not (head_folder / FINISHED).is_file():
        model = LlamaForCausalLM.from_pretrained(target_folder, dtype=torch.float32)
        how = _settings(HeadTraining, draft, seed=seed)
        train_head(model, Texts.load(texts_file), head_folder, how, eagle3=head == "eagle3", log=log)
    log(f"train-pair: finished; decode with model.target={target_folder} model.draft={head_folder}")


def _settings(kind: type[T], values: Mapping[str, Any], **fixed: Any) -> T:
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown training settings {unknown}; valid: {json.dumps(sorted(known - set(fixed)))}")
    return kind(**{**values, **fixed})
