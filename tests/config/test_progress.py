import io
import sys

import pytest

from diptych.cli.common import console, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Working", 3) as bar:
        bar.advance()
        bar.update(3, 3)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_shows_count_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("Working") as bar:
        bar.update(1)
        bar.update(2, 5)
        bar.advance(2)
    shown = stream.getvalue()
    assert "Working" in shown
    assert "4/5" in shown
    assert "/s" in shown


def test_the_console_neither_wraps_nor_colours_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("[bold] " + "x" * 300)
    console(stderr=True).print("to stderr")
    captured = capsys.readouterr()
    assert captured.out == "[bold] " + "x" * 300 + "\n"
    assert captured.err == "to stderr\n"
