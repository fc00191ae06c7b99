import subprocess
import sys
from pathlib import Path

import gymnasium

NAMES = ("DraftTree", "DraftTreeWallClock", "DraftTreeReplay")


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_folder_refuses_to_be_imported_on_its_own(repository: Path) -> None:
    result = run("import envs", repository)
    assert "import radar_rl.envs, not envs" in result.stderr


def test_data_needs_no_gymnasium(tmp_path: Path) -> None:
    code = "import sys, radar_rl, radar_rl.rollouts, radar_rl.rollouts.rollout; print('gymnasium' in sys.modules)"
    assert run(code, tmp_path).stdout.strip() == "False"


def test_importing_registers() -> None:
    import radar_rl.envs  # noqa: F401

    random = {name: gymnasium.spec(f"Radar/{name}-v0").nondeterministic for name in NAMES}
    assert random == {"DraftTree": False, "DraftTreeWallClock": True, "DraftTreeReplay": False}


def test_matplotlib_waits_until_somebody_looks(tmp_path: Path) -> None:
    code = "import sys, radar_rl.envs; print('matplotlib' in sys.modules)"
    assert run(code, tmp_path).stdout.strip() == "False"
