"""``make quickstart`` walks the whole path; here at small sizes, in the environment that runs the tests."""

import subprocess
import sys
from pathlib import Path


def test_the_quickstart_ends_with_a_table_a_picture_and_a_decode(repository: Path, tmp_path: Path) -> None:
    sizes = [f"RUN={tmp_path}", "SAMPLES=1", "STEPS=40", "NEW_TOKENS=16"]
    installed = ["-o", f"{sys.prefix}/.complete", f"VENV={sys.prefix}"]  # as it is, no installation
    command = ["make", *installed, *sizes, "quickstart"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{stage}/6 " in done.stdout for stage in range(1, 7))
    assert "oracle" in done.stdout
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {"hardware.json", "evaluation/comparison.png", "evaluation/evaluation.parquet"} <= made
    assert {"policy/config.json", "policy/policy.safetensors"} <= made
