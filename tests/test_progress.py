"""Progress reaches stderr as plain lines where there is no terminal, and never changes what is worked on."""

import pytest

from radar_rl import progress


def test_items_pass_through_and_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(iter("abc"), total=3, label="letters")) == ["a", "b", "c"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "letters: 3/3, 0 s\n"


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert sum(progress.track([1, 2, 3], total=3, label="sum")) == 6
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["sum: 1/3", "sum: 2/3", "sum: 3/3"]
    assert "left" in lines[0]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(progress.track([1, 2], total=2, label="bar")) == [1, 2]
    assert "100%" in capsys.readouterr().err
