"""The verb ``export``: a run's policy as the small folder that whoever serves the model loads."""

from pathlib import Path

from radar_rl.errors import ArtifactError
from radar_rl.runtime.artifact import METADATA, load_policy, read_config, save_policy


def export(*, run: str, out: str) -> None:
    """Copy a run's policy, with its provenance and without its training data, to ``out``.

    Raises:
        ArtifactError: the run holds no sound policy, or ``out`` is the run itself.
    """
    if Path(run).resolve() == Path(out).resolve():
        raise ArtifactError(f"export: out={out} is the run itself; name another folder")
    policy, values = load_policy(run), read_config(run)
    kept = {key: values[key] for key in (*METADATA, "max_depth", "top_k", "tree_size") if key in values}
    save_policy(out, policy, kept)
    size = sum(path.stat().st_size for path in Path(out).iterdir())
    print(
        f"export: {policy.name} → {out} ({size / 1024:.0f} KiB); decode with: radar-rl decode policy={out} --prompt …"
    )
