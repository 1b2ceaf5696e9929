"""What is measured of the code, on a package small enough to count by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks import code

ONE_CALLER = '''"""A module."""

import os

# why
def _helper(x):
    """Doc
    of two lines."""
    return x + 1  # not a line of its own


def use(x):
    return _helper(x)
'''
TWO_CALLERS = '''"""One."""

import os


class One:
    def _twice(self):
        return 2

    def fit(self):
        a = 1
        b = 2

        # step
        c = 3
        d = 4
        return a + b + c + d

    def test(self):
        return self._twice() * self._twice()
'''
RECURSIVE = """def run():
    a = 1
    b = 2
    c = 3
    d = 4
    return a + b + c + d

def _down(n):
    return _down(n - 1) if n else 0

def go():
    return _down(3)
"""
FILES = {
    "pkg/__init__.py": '"""Too short to count."""\n',
    "pkg/a.py": ONE_CALLER,
    "pkg/methods/one.py": TWO_CALLERS,
    "pkg/methods/two.py": RECURSIVE,
    "configs/x.yaml": "a: 1\nb: 2\nc: 3\nd: 4\n# note\n\ne: 5\n",
    "configs/group/y.yaml": "k:\n  a: 1\n  b: 2\n  c: 3\n  d: 4\n  e: 5\nf: 6\n",
}


@pytest.fixture
def repo(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "mine"


def test_counted_by_hand(repo, capsys):
    file = repo.parent / "new" / "code.json"
    words = ["--repo", str(repo), "--package", "pkg", "--reading", "pkg.a", "pkg/methods/two.py", "pkg"]
    assert code.main([*words, "--json", str(file)]) == 0
    (figures,) = json.loads(file.read_text())["repos"]
    assert figures == {
        "repo": "mine",
        "functions": 8,
        "function_lines": {"median": 2, "p90": 8, "max": 8},
        "files": 3,
        "file_lines": {"median": 13, "p90": 20, "max": 20},
        "docstrings": pytest.approx(4 / 45),
        "docstrings_methods": pytest.approx(1 / 32),
        "comments": pytest.approx(2 / 45),
        "one_caller": pytest.approx(2 / 8),
        "repeated_methods": pytest.approx(10 / 21),
        "repeated_configs": pytest.approx(10 / 12),
        "reading_lines": 13 + 12 + 1,
    }
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == ["", "mine"]
    assert ["function lines median / p90 / max", "2 / 8 / 8"] in printed
    assert ["private functions with one caller, of all functions", "25.0%"] in printed
    assert printed[-1] == ["reading length, lines", "26"]


def test_checkouts_side_by_side(repo, capsys):
    other = repo.parent / "other"
    (other / "pkg").mkdir(parents=True)
    (other / "pkg" / "a.py").write_text("x = 1\ny = 2\n")
    assert code.main(["--repo", str(repo), str(other), "--package", "pkg"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    cells = {label: values for label, *values in lines}
    assert cells[""] == ["mine", "other"]
    assert cells["functions / files"] == ["8 / 3", "0 / 1"]
    assert cells["function lines median / p90 / max"] == ["2 / 8 / 8", "-"]
    assert cells["repeated lines of methods/"] == ["47.6%", "-"]
    assert cells["reading length, lines"] == ["-", "-"]


def test_p90_is_what_nine_of_ten_do_not_exceed():
    assert code.spread(range(1, 21)) == {"median": 10.5, "p90": 18, "max": 20}
    assert code.spread(range(1, 20)) == {"median": 10, "p90": 18, "max": 19}


@pytest.mark.parametrize(
    ("texts", "counted"),
    [
        (["def _a():\n    pass\n\n_a()\n", "from x import y\ny()\n"], [True]),
        (["def _a():\n    pass\n\n_a()\n", "from x import _a\n_a()\n"], [False]),
        (["def _a():\n    pass\n", "from x import _a\n_a(_a())\n"], [True]),
        (["def _a():\n    pass\n", "x = 1\ny = 2\n"], [False]),
        (["class A:\n    def __call__(self):\n        return self._b()\n\n    def _b(self): ...\n"], [True]),
        (["async def _a():\n    def _b(): ...\n    _b(_b)\n\nf = [_a]\n"], [True, False]),
    ],
)
def test_one_caller(tmp_path, texts, counted):
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.py").write_text(text)
    assert list(code.one_caller(code.read(tmp_path))) == counted


@pytest.mark.parametrize(
    ("files", "share"),
    [
        (["abcdefg", "xabcdey"], 10 / 14),
        (["abcdefg", "xabcdy"], 0),  # a run of four
        (["abcdezabcde"], 10 / 11),  # in the same file
        (["abcdefg", "abcdefg", "bcdefx"], 19 / 20),  # overlapping runs are counted once
        ([], None),
    ],
)
def test_repeated(files, share):
    assert code.repeated(files) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--package", "no"], "no Python files in no/"),
        (["--package", "pkg", "--reading", "pkg.no"], "--reading pkg.no: "),
    ],
)
def test_wrong_words(repo, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        code.main(["--repo", str(repo), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
