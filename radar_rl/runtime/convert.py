"""The verb ``convert``: a draft head in the checkpoint format of another project."""

from dataclasses import asdict, replace
from pathlib import Path

from radar_rl.errors import CheckpointError
from radar_rl.speculative.checkpoints import read_config, write_checkpoint
from radar_rl.speculative.formats import (
    Eagle3Format,
    HeadDescription,
    check_complete,
    check_fit,
    config_of,
    named_for,
    read_head,
)
from radar_rl.speculative.pair import head_checkpoint, target_checkpoint


def convert(*, source: str, out: str, to: Eagle3Format, target: str | None) -> None:
    """Write the head at ``source`` to ``out`` in the format ``to``; tensors keep their bits and dtypes.

    Args:
        target: the head's target; None: the head isn't checked against it, and the config doesn't name it.

    Raises:
        CheckpointError: the head is no EAGLE-3 head, is incomplete, is in this format already, needs what the format
            can't express, or doesn't fit the target.
        InputError: no such folder or Hub id, or ``out`` is not empty.
    """
    checkpoint = read_head(head_checkpoint(source))
    if checkpoint.format == "eagle2":
        raise CheckpointError(f"{source}: an EAGLE-2 head; expected an EAGLE-3 head, which {to} is a format of")
    if checkpoint.format == to:
        raise CheckpointError(f"{source}: in the format {to} already")
    check_complete(checkpoint)
    description = checkpoint.description
    architectures: list[str] = []
    if target is not None:
        values = read_config(target_checkpoint(target))
        description = _described_for(description, values, target)
        architectures = values.get("architectures") or []
    tensors = named_for(checkpoint.tensors, to)
    write_checkpoint(Path(out), config_of(description, to, target, architectures), tensors)
    options = [name for name, on in asdict(description.options).items() if on]
    print(
        f"convert: {source} ({checkpoint.format}) → {out} ({to}): {len(tensors)} tensors, "
        f"options: {', '.join(options) or 'none'}"
    )
    if checkpoint.unused:
        print(f"convert: left out, as no draft needs it: {', '.join(checkpoint.unused)}")


def _described_for(description: HeadDescription, values: dict[str, object], target: str) -> HeadDescription:
    """The description for a known target: checked, and without feature layers that are the usual ones anyway."""
    sizes = [
        size for key in ("vocab_size", "hidden_size", "num_hidden_layers") if isinstance(size := values.get(key), int)
    ]
    if len(sizes) != 3:
        raise CheckpointError(f"{target}: config.json: expected vocab_size, hidden_size and num_hidden_layers")
    check_fit(description, *sizes)
    return replace(description, feature_layers=None)
