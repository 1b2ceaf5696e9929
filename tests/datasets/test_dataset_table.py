"""Tables of images: values are taken as they stand, and every mistake is named with its row."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from ader.config.options import read_option
from ader.data import Index, Sample, load_index
from ader.system.errors import UserError
from ader.testing.dataset_checks import check_dataset

HEADER = "image,category,split,label,mask,defect,group"
ROWS = (
    "002/2.png,002,train,0,,,",
    "002/10.png,002,train,0,,good,7",
    "002/t.png,002,test,1,m/a.png; m/b.png,NA,7",
    "NA/1.png,NA,train,0,,,",
    '"NA/a, b.png",NA,test,0,,ok,',
    "NA/nan.png,NA,test,1,m//c.png,,",
    "002/v.png,002,validation,0,,,",
    "002/n.png,002,train,0,,noise,",
)
SAMPLES = (
    Sample("002/10.png", "002", "train", 0, group="7"),
    Sample("002/2.png", "002", "train", 0),
    Sample("002/n.png", "002", "train", 0, defect="noise"),
    Sample("002/t.png", "002", "test", 1, ("m/a.png", "m/b.png"), "NA", "7"),
    Sample("002/v.png", "002", "validation", 0),
    Sample("NA/1.png", "NA", "train", 0),
    Sample("NA/a, b.png", "NA", "test", 0),
    Sample("NA/nan.png", "NA", "test", 1, ("m/c.png",), "bad"),
)


def write(root: Path, *rows: str, header: str = HEADER, name: str = "index.csv", encoding: str = "utf-8") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join((header, *(rows or ROWS), "")), encoding=encoding)
    return root


def read(root: Path, categories=None, **options) -> Index:
    return load_index("table", root, categories, **options)


def test_samples_are_as_listed(tmp_path):
    """Names that look like numbers or missing values stay texts."""
    index = read(write(tmp_path / "My parts"))
    assert index.name == "table-My-parts"
    assert index.categories == ("002", "NA")
    assert index.has_masks
    assert index.samples == SAMPLES
    assert read(index.root, ["NA"]).samples == SAMPLES[5:]


def test_checks_pass(tmp_path):
    root = write(tmp_path / "set")
    for sample in SAMPLES:
        for path, mode in ((sample.image, "RGB"), *((mask, "L") for mask in sample.masks)):
            (root / path).parent.mkdir(exist_ok=True)
            Image.new(mode, (9, 8), "white").save(root / path)
    check_dataset(lambda: read(root))


def test_four_columns_in_any_order_are_enough(tmp_path):
    index = read(write(tmp_path, "0,a,1.png,train", "1,a,2.png,test", header="label,category,image,split"))
    assert index.samples == (Sample("1.png", "a", "train", 0), Sample("2.png", "a", "test", 1, (), "bad"))
    assert not index.has_masks


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_blank_lines_and_byte_order_marks(tmp_path, encoding):
    root = write(tmp_path, *(f"{row}\r\n\r" for row in ROWS), encoding=encoding)
    assert read(root).samples == SAMPLES


def fails(tmp_path: Path, words: str, *rows: str, **options: str) -> str:
    root = write(tmp_path / "set", *rows, **options)
    with pytest.raises(UserError) as caught:
        read(root)
    message = str(caught.value)
    assert "\n" not in message
    assert words in message
    assert str(root / "index.csv") in message
    return message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x.png,a,test,2,,,", "label '2' is neither 0 (normal) nor 1 (defective)"),
        ("x.png,a,test,1.0,,,", "label '1.0' is neither"),
        ("x.png,a,test,good,,,", "label 'good' is neither"),
        ("x.png,a,test,,,,", "label '' is neither"),
        ("x.png,a,val,0,,,", "split 'val' is none of train, test, validation"),
        ("x.png,a,Test,0,,,", "split 'Test' is none of"),
        ("x.png,,test,0,,,", "has no category"),
        (",a,test,0,,,", "'' is no path below the dataset's folder"),
        ("../x.png,a,test,0,,,", "'../x.png' is no path below"),
        ("/x.png,a,test,0,,,", "'/x.png' is no path below"),
        ("x.png,a,test,1,m.png;../n.png,,", "'../n.png' is no path below"),
        ("x.png,a,test,1,,good,", "has label 1 (defective) and defect 'good'"),
        ("x.png,a,test,0,,hole,", "has label 0 (normal) and defect 'hole'"),
        ("x.png,a,test,0,,", "has another number of fields than the header"),
        ("x,y.png,a,test,0,,,", "has another number of fields than the header"),
    ],
)
def test_rows_that_are_not_right(tmp_path, row, words):
    message = fails(tmp_path, words, ROWS[0], row, ROWS[1])
    assert "index.csv, line 3" in message


def test_line_numbers_are_those_of_an_editor(tmp_path):
    fails(tmp_path, "line 5: label 'x'", "", ROWS[0], "", "y.png,a,test,x,,,")


def test_tables_that_are_not_right(tmp_path):
    fails(tmp_path, "has no column 'image'", "1", header="a")
    fails(tmp_path, "'image;category;split;label': put commas", "x.png;a;test;0", header="image;category;split;label")
    # commas are not what is missing
    fails(tmp_path, "'image,category,split': add it", "x,a,test", header="image,category,split")
    fails(
        tmp_path, "'image,category,split,labels': rename 'labels', or add it", "x", header="image,category,split,labels"
    )
    fails(tmp_path, "write 'label' for ' Label'", "x", header="image,category,split, Label")
    message = fails(tmp_path, "has an unknown column 'masks'", "x", header="image,category,split,label,masks")
    assert "did you mean 'mask'" in message
    fails(tmp_path, "has two columns 'mask'", "x", header=f"{HEADER},mask")
    fails(tmp_path, "lists 002/2.png more than once", ROWS[0], "002//2.png,other,test,0,,,")
    fails(tmp_path, "has 'a/b' as a category or defect", "x.png,a/b,test,0,,,")
    fails(tmp_path, r"has 'a\x00b' as a category or defect", "x.png,a\0b,test,0,,,")
    fails(tmp_path, "cannot be read", '"x.png,a,test,0,,,')
    (tmp_path / "set" / "index.csv").write_text(f"{HEADER}\n")
    with pytest.raises(UserError, match=r"index\.csv lists no image"):
        read(tmp_path / "set")
    (tmp_path / "set" / "index.csv").write_text("")
    with pytest.raises(UserError, match="has no column 'image'"):
        read(tmp_path / "set")
    fails(tmp_path, "give a CSV in UTF-8", "größe.png,a,test,0,,,", encoding="latin-1")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"does not hold index\.csv"):
        read(tmp_path)
    write(tmp_path, name="index.xlsx")
    with pytest.raises(UserError, match=r"dataset\.file: .*index\.xlsx is neither a \.csv nor a \.parquet"):
        read(tmp_path, file="index.xlsx")
    write(tmp_path / "deeper", name="list.CSV")
    assert read(tmp_path / "deeper", file="list.CSV").samples == SAMPLES


# Parquet


def frame() -> pd.DataFrame:
    """With real numbers, missing values of several kinds and columns in another order."""
    return pd.DataFrame(
        {
            "label": [0, 1, 0],
            "image": ["001.png", "002.png", "003.png"],
            "category": [5, 5, 5],
            "split": pd.Categorical(["train", "test", "test"]),
            "group": pd.array([7, None, 8], "Int64"),
            "mask": [None, "m/1.png;m/2.png", float("nan")],
            "defect": pd.array(["good", "NA", None], "string"),
        }
    )


FRAME = (
    Sample("001.png", "5", "train", 0, group="7"),
    Sample("002.png", "5", "test", 1, ("m/1.png", "m/2.png"), "NA"),
    Sample("003.png", "5", "test", 0, group="8"),
)


@pytest.fixture
def parquet(tmp_path, monkeypatch) -> Path:
    """A file that pandas reads as ``frame``, with or without pyarrow."""
    root = tmp_path / "set"
    root.mkdir()
    (root / "index.parquet").touch()
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame())
    return root


def test_parquet_values_become_texts(parquet):
    assert read(parquet, file="index.parquet").samples == FRAME


def test_rows_of_parquet_are_counted(parquet, monkeypatch):
    wrong = frame()
    wrong.loc[2, "split"] = None
    monkeypatch.setattr(pd, "read_parquet", lambda path: wrong)
    with pytest.raises(UserError, match=r"index\.parquet, row 3: split '' is none of"):
        read(parquet, file="index.parquet")
    monkeypatch.setattr(pd, "read_parquet", lambda path: wrong.drop(columns="label"))
    with pytest.raises(UserError, match=r"index\.parquet has no column 'label'"):
        read(parquet, file="index.parquet")


def test_parquet_round_trip(tmp_path):
    pytest.importorskip("pyarrow")
    frame().to_parquet(tmp_path / "index.parquet")
    assert read(tmp_path, file="index.parquet").samples == FRAME
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(UserError, match=r"bad\.parquet cannot be read"):
        read(tmp_path, file="bad.parquet")


def test_missing_pyarrow_is_named(tmp_path, monkeypatch):
    (tmp_path / "index.parquet").touch()
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="needs the package pyarrow: pip install pyarrow, or save the table as CSV"):
        read(tmp_path, file="index.parquet")


def test_config():
    config = read_option("dataset", "table")
    assert (config["name"], config["root"], config["file"]) == ("table", "???", "index.csv")
