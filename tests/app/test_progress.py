"""What is on the screen, and when."""

import io
import re
import time

import pytest

from minidl import progress
from minidl.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_that_stays_is_written_at_once():
    stream = io.StringIO()
    with Progress(stream) as screen:
        screen.say("one")
        screen.say("two\nthree")
        assert stream.getvalue() == "one\ntwo\nthree\n"


def test_in_a_file_the_present_is_not_repeated_for_every_step(monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0.3)
    stream = io.StringIO()
    with Progress(stream) as screen:
        end = time.monotonic() + 1.0
        step = 0
        while time.monotonic() < end:
            step += 1
            screen.now(f"step {step}")
            time.sleep(0.002)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all(re.fullmatch(r"step \d+", line) for line in lines)
    assert "\r" not in stream.getvalue()


def test_a_long_silence_is_broken_with_the_time_passed(monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0.5)
    stream = io.StringIO()
    with Progress(stream) as screen:
        screen.begin("compiling")
        time.sleep(2.4)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling"
    assert lines[-1] == "compiling ... 2 s"
    assert len(lines) >= 4


def test_nothing_is_repeated_after_a_line_that_stays(monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0.1)
    stream = io.StringIO()
    with Progress(stream) as screen:
        screen.begin("working")
        screen.say("done")
        time.sleep(0.6)
    assert stream.getvalue() == "working\ndone\n"


def test_on_a_terminal_the_present_replaces_itself_and_vanishes_at_the_end():
    stream = Terminal()
    with Progress(stream) as screen:
        screen.begin("step 1")
        screen.say("kept")
        screen.begin("step 2")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text == "\r\033[Kstep 1\r\r\033[Kkept\n\r\033[Kstep 2\r\r\033[K"


def test_on_a_terminal_a_long_line_is_cut_so_that_it_can_be_replaced(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with Progress(stream) as screen:
        screen.begin("x" * 50)
        assert stream.getvalue() == "\r\033[K" + "x" * 19 + "\r"


def test_silent_says_nothing(capsys):
    with Progress(silent=True) as screen:
        screen.say("one")
        screen.begin("two")
        screen.now("three")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min"), (7384, "2:03 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
