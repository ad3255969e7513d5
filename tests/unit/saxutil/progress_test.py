"""Progress on a terminal and elsewhere, without a terminal device."""

import io
import sys

import pytest

from saxml.client.readiness import Progress
from saxml.saxutil.progress import ProgressDisplay


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(ready: int, why: str = "") -> Progress:
    return Progress("/sax/test/m", wanted=1, assigned=1, ready=ready, current=ready, why=why)


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, *seen: Progress) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    with ProgressDisplay() as display:
        for one in seen:
            display.show(one)
    return stderr.getvalue()


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(monkeypatch, FakeTerminal(), progress(0), progress(0), progress(1))
    assert text == (
        "\r\x1b[K/sax/test/m: 0 of 1 replicas ready; 1 loading (0 s)"
        "\r\x1b[K/sax/test/m: 0 of 1 replicas ready; 1 loading (0 s)"
        "\r\x1b[K/sax/test/m: 1 of 1 replicas ready (0 s)\n"
    )


def test_a_line_is_cut_to_the_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = shown(monkeypatch, FakeTerminal(), progress(0, "no server has the tags fast, big"))
    assert text == "\r\x1b[K" + "/sax/test/m: 0 of 1 replicas ready; " + "...\n"


def test_elsewhere_there_is_a_plain_line_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, io.StringIO(), progress(0), progress(0), progress(1))
    assert text == (
        "/sax/test/m: 0 of 1 replicas ready; 1 loading\n/sax/test/m: 1 of 1 replicas ready\n"
    )
