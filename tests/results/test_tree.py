"""The results tree is read while runs write in it: results whole, and none missing."""

from __future__ import annotations

import os
import shutil
import time

import pandas as pd
import pytest

from ader.results import record, tree
from ader.results.folder import exclusive
from ader.results.tree import read_result, result_folders
from ader.system.errors import UserError
from tests.support.records import a_record

TABLES = ("metrics", "bounds")


def write(folder, value, **changes):
    """A result whose values, everywhere, are one."""
    frame = pd.DataFrame({"image_auroc": [value]}, index=["mean"])
    files = {f"{name}.csv": record.as_csv(frame) for name in TABLES}
    record.write(folder, files, a_record(rows={"mean": {"image_auroc": value}}, **changes))


def values(found):
    """Of record and tables."""
    return {found.record.rows["mean"]["image_auroc"], *(table.iloc[0, 0] for table in found.tables.values())}


@pytest.fixture
def writer(tmp_path):
    """A process that replaces the result again and again, by another one and by an equal one."""
    folder = tmp_path / "demo" / "multi_class" / "rd" / "run"
    write(folder, 0.0)
    (folder / "config.yaml").touch()
    number = os.fork()
    if number == 0:
        os.fsync = lambda _: None
        with exclusive(folder):
            for step in range(1 << 30):
                write(folder, step // 2 % 8 / 8, seed=step % 9)
                time.sleep(step % 7 / 100)
    yield folder
    os.kill(number, 9)
    os.waitpid(number, 0)


def test_a_result_is_whole_while_it_is_replaced(writer, monkeypatch):
    monkeypatch.setattr(tree, "PATIENCE", 30)
    seen, until = set(), time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < until:
        found = read_result(writer, *TABLES)
        assert found is not None, "a result was gone"
        assert len(values(found)) == 1, "old beside new"
        seen |= values(found)
    assert len(seen) >= 4


def test_equal_tables_leave_the_record_in_its_place(tmp_path, monkeypatch):
    """Then there is no moment without it, for those who only read the file."""
    write(tmp_path, 0.5)
    there = []
    replace = os.replace

    def looking(source, target):
        there.append((tmp_path / "record.json").exists())
        replace(source, target)

    monkeypatch.setattr(os, "replace", looking)
    record.write(tmp_path, {"metrics.csv": (tmp_path / "metrics.csv").read_text(), "new.csv": "x"}, a_record(seed=7))
    assert there == [True, True]
    assert record.read(tmp_path).seed == 7
    write(tmp_path, 0.25)
    assert there[2:] == [False, False, False]


def test_a_crash_between_old_and_new_is_not_waited_for(tmp_path, monkeypatch):
    write(tmp_path, 0.5)
    (tmp_path / "record.json").unlink()
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert read_result(tmp_path, *TABLES) is None
    assert waits == []
    monkeypatch.setattr(tree, "PATIENCE", 0.05)
    with exclusive(tmp_path):
        assert read_result(tmp_path, *TABLES) is None
    assert waits


def test_damage_is_said(tmp_path):
    write(tmp_path, 0.5)
    (tmp_path / "bounds.csv").unlink()
    assert read_result(tmp_path, "metrics").record.seed == 42
    with pytest.raises(UserError, match=r"bounds\.csv cannot be read"):
        read_result(tmp_path, *TABLES)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_result(tmp_path)


def test_defects_are_read_where_there_are_some(tmp_path):
    write(tmp_path, 0.5)
    assert list(read_result(tmp_path, "metrics", "defects").tables) == ["metrics"]
    write(tmp_path, 0.5, by_defect=True)
    shutil.copy(tmp_path / "metrics.csv", tmp_path / "defects.csv")
    assert list(read_result(tmp_path, "metrics", "defects").tables) == ["metrics", "defects"]


def test_finished_runs_are_found(tmp_path):
    for place in ("b/multi_class/rd/two", "a/maps/x/one", "b/multi_class/rd/one"):
        write(tmp_path / place, 0.5)
    (tmp_path / "a/maps/x/one/parts/y").mkdir(parents=True)
    (tmp_path / "a/maps/x/one/parts/y/record.json").touch()  # below a run nothing is looked for
    (tmp_path / "b/multi_class/rd/unfinished/maps").mkdir(parents=True)
    (tmp_path / "b/multi_class/rd/unfinished/config.yaml").touch()
    found = [str(folder.relative_to(tmp_path)) for folder in result_folders(tmp_path)]
    assert found == ["a/maps/x/one", "b/multi_class/rd/one", "b/multi_class/rd/two"]
    assert list(result_folders(tmp_path / "none")) == []


def test_a_folder_that_goes_while_the_tree_is_read(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / name, 0.5)
    found = result_folders(tmp_path)
    assert next(found) == tmp_path / "a"
    shutil.rmtree(tmp_path / "b")
    rest = list(found)
    assert tmp_path / "c" in rest
    assert all(read_result(folder) is None for folder in rest if folder.name == "b")
