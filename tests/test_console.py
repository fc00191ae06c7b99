"""Tables keep their width in logs."""

import pytest

from radar_rl.console import wide_console


@pytest.mark.parametrize("stderr", [False, True])
def test_where_there_is_no_terminal_lines_have_the_width_asked_for(
    stderr: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    wide_console(90, stderr=stderr).print("word " * 30)
    out, err = capsys.readouterr()
    shown, silent = (err, out) if stderr else (out, err)
    assert len(shown.splitlines()[0].rstrip()) > 80
    assert not silent
