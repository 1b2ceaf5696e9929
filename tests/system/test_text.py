"""Names that would rule a terminal: what is printed, logged or put on a page of them, wherever they come from."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console as RichConsole

from ader.__main__ import main
from ader.report.renderers import html, latex, markdown, terminal
from ader.report.tables import Column, Row, Table
from ader.system.console import Console
from ader.system.text import clean
from tests.support.running import Bench

#: What a name may hold, and how it is shown.
HOSTILE = {
    "\x1b[2J\x1b[31mred": "\\x1b[2J\\x1b[31mred",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x1b]8;;http://x\x1b\\link": "\\x1b]8;;http://x\\x1b\\link",
    "a\rb": "a\\rb",
    "a\x08b\x7f": "a\\x08b\\x7f",
    "a\x9b31mb\x90": "a\\x9b31mb\\x90",
    "a\tb\x0bc\x0c": "a\\tb\\x0bc\\x0c",
    "a\x00": "a\\x00",
    "gnp\u202egpj.exe": "gnp\\u202egpj.exe",
    "\u2066a\u2069\u200f": "\\u2066a\\u2069\\u200f",
    "a\u2028b\u2029": "a\\u2028b\\u2029",
    "a\x85b": "a\\x85b",
    "\udcff.png": "\\udcff.png",
    "[red]a[/]": "[red]a[/]",
    ":smile: ü 漢字 \N{WAVING HAND SIGN} =1+1": ":smile: ü 漢字 \N{WAVING HAND SIGN} =1+1",
}

RULING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_said_and_logged(name, tmp_path, capsys):
    shown = HOSTILE[name]
    assert clean(name) == shown
    with Console(tmp_path / "run.log") as console:
        console.say(f"file {name}")
        with console.track(name, 1, "files") as track:
            track.advance(f"{name}.")
    out = capsys.readouterr().out
    assert out == f"file {shown}\n{shown}: 1/1 files  {shown}.\n"
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert [line[21:] for line in log.splitlines()] == out.splitlines()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_progress_bars(name):
    output, console = io.StringIO(), Console()
    console.rich = RichConsole(file=output, force_terminal=True, width=200, color_system=None, legacy_windows=False)
    with console.track(name, 2, "files") as track:
        track.advance(name)
    text = output.getvalue()
    own = re.sub(r"\x1b\[(\?25[lh]|\d?[AK])|\r", "", text)  # those that rich moves the bar with
    assert f"{HOSTILE[name]} " in own
    assert not RULING.search(own)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_errors(name, capsys):
    assert main(["list", name]) == 2
    assert main([f"dataset.root=/no/{name}", "method=rd", "dataset=folder"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert not RULING.search(err)


@pytest.mark.parametrize("render", [terminal, markdown, latex, html])
@pytest.mark.parametrize("name", [*HOSTILE, "<script>alert(1)</script>", "a|b`c", "50%\\input{x}$^_&#~{}"], ids=ascii)
def test_tables(name, render):
    text = render(Table((Column("name"), Column("value", kind="percent")), (Row.of(name, 0.5),), name, (name,)))
    assert not RULING.search(text)
    if render is html:
        assert "<script" not in text
    if render is markdown:
        assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in text.splitlines() if line.startswith("|"))
    if render is latex:
        assert not re.search(r"(?<!\\)%|\\input", text)


def test_a_run_on_such_a_folder(tmp_path, monkeypatch, capsys):
    """Categories, defects and files with such names are evaluated; nothing of them gets through but to the data."""
    bench = Bench(tmp_path, monkeypatch)
    category, defect = "\x1b[31m\u202ebad", "\x1b]0;x\x07"
    (bench.data / "bottle").rename(bench.data / category)
    for kind in ("test", "ground_truth"):
        (bench.data / category / kind / "hole").rename(bench.data / category / kind / defect)
    assert bench.run("metric.by_defect=true", "setting=single_class", "trainer.max_steps=1") == 0
    mask = next((bench.data / category / "ground_truth" / defect).iterdir())
    mask.rename(mask.with_name(f"\x9b2J{mask.name}"))
    assert bench.run("force=true") == 2
    captured = capsys.readouterr()
    folder = bench.folder()
    assert clean(category) in captured.out
    assert "\\x9b2J" in captured.err or "\\x1b]0;x" in captured.err
    assert not RULING.search(captured.out + captured.err + (folder / "run.log").read_text())
    assert category in (folder / "metrics.csv").read_text()
