"""The replay of hostile inputs: its cases hang together, and it finds wrong answers."""

from __future__ import annotations

import os
import sys

import pytest

from scripts.hostile import __main__ as hostile
from scripts.hostile import replay, world
from scripts.hostile.replay import Case, Running


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("hostile") / "w").folder


def judged(case, template, command):
    """A case whose command is a function of this test: the child inherits it."""
    running = Running(case, template, command)
    while (found := running.look()) is None:
        pass
    return found


def says(text, status):
    def command(words):
        print(text, file=sys.stderr)
        return status

    return command


def test_there_are_enough_cases_of_each_kind():
    cases = hostile.cases()
    assert len(cases) >= 500
    assert {case.kind for case in cases} == set(hostile.KINDS)


@pytest.mark.parametrize(
    ("command", "answer", "problem"),
    [
        (says("ader: error: the key x is wrong", 2), "refused", ""),
        (lambda words: 0, "done", ""),
        (lambda words: 0, "either", ""),
        (lambda words: 0, "refused", "status 0"),
        (lambda words: 1, "either", "status 1"),
        (says("ader: error: the key x is wrong", 2), "done", "status 2"),
        (says("ader: error: the key y is wrong", 2), "refused", "does not say"),
        (says("ader: error: x\nand more", 2), "refused", "2 lines"),
        (says("x", 2), "refused", "ader: error"),
        (says("ader: error: the key x " + 2000 * "y", 2), "refused", "2023 characters"),
        (says("ader: error: the key x \x1b[2J", 2), "refused", "control"),
        (says("ader: error: the key x \u202e", 2), "refused", "control"),
        (lambda words: 1 / 0, "either", "traceback"),
        (lambda words: open(".x.tmp", "w").close() or 0, "done", "left behind"),
        (lambda words: open("../x", "w").close() or 0, "done", "outside"),
        (lambda words: open("pwned", "w").close() or 0, "done", "executed"),
        (lambda words: os.kill(os.getpid(), 9), "either", "signal 9"),
    ],
)
def test_judgement(template, command, answer, problem):
    case = Case("test", "one", ("x=1",), answer, says="key x" if answer == "refused" else "")
    problems = "; ".join(judged(case, template, command).problems)
    assert (problem in problems) if problem else problems == ""


def test_hang_and_memory_are_ended(template, monkeypatch):
    import time

    monkeypatch.setattr(replay, "SECONDS", 0.3)
    assert "no answer" in judged(Case("test", "hang", ()), template, lambda words: time.sleep(60)).problems[0]
    monkeypatch.setattr(replay, "SECONDS", 20)
    monkeypatch.setattr(replay, "MEMORY", 1 << 20)
    assert "memory" in judged(Case("test", "memory", ()), template, lambda words: time.sleep(60)).problems[0]


def test_each_case_has_a_folder_of_its_own(template):
    case = Case("test", "change", (), "done", prepare=lambda here: (here.own / "bolt").rename(here.own / "x"))
    assert not judged(case, template, lambda words: 0).problems
    assert (template / "own" / "bolt").is_dir()
