import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_folder_refuses_to_be_imported_on_its_own(repository: Path) -> None:
    result = run("import envs", repository)
    assert "import radar_rl.envs, not envs" in result.stderr


def test_data_needs_no_gymnasium(tmp_path: Path) -> None:
    code = "import sys, radar_rl, radar_rl.rollouts, radar_rl.rollouts.rollout; print('gymnasium' in sys.modules)"
    assert run(code, tmp_path).stdout.strip() == "False"


@pytest.mark.parametrize("name", ["Radar/DraftTree-v0", "Radar/DraftTreeReplay-v0"])
def test_importing_registers(name: str) -> None:
    import radar_rl.envs  # noqa: F401

    assert gymnasium.spec(name).nondeterministic is False
