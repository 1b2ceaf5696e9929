"""Galleries: which images they show, on what scale, what is in the pictures, and that they are whole or not there."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ader.data.index import Sample
from ader.results import record
from ader.results.gallery import Entry, Gallery, as_json, read_gallery
from ader.results.outputs import Outputs
from ader.runs.finished import show_finished
from ader.runs.gallery import Choice, Collector, Picture, Pictures, choose, levels_of, scale_of, write_gallery
from ader.runs.pictures import OUTLINE, RIM, colors, heat, outlined, overlay, side_by_side, webp
from ader.system.files import WriteError
from tests.support.commands import run_together
from tests.support.running import Bench, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch)
    bench.with_gallery = True
    return bench


def samples(categories, good, kinds, each=1):
    """Test samples: ``good`` normal ones and ``each`` of every kind of defect."""
    found = []
    for category in categories:
        found += [Sample(f"{category}/good/{n}.png", category, "test", 0) for n in range(good)]
        for kind in kinds:
            names = [f"{category}/{kind}/{n}.png" for n in range(each)]
            found += [Sample(name, category, "test", 1, (f"{name}.mask",), kind) for name in names]
    return found


def collected(tests, scores, kind="worst", batch=3, folder=None, maps=None, masks=None, most=240, size=32):
    """The gallery of these samples."""
    collector = Collector(kind, choose(tests, most), folder)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((len(tests), 3, size, size), dtype=np.float32))
    maps = torch.from_numpy(rng.random((len(tests), size, size), dtype=np.float32)) if maps is None else maps
    for first in range(0, len(tests), batch):
        part = slice(first, first + batch)
        collector.add(
            tests[part],
            images[part],
            torch.tensor(scores[part], dtype=torch.float64),
            None if maps is False else maps[part],
            None if masks is None else masks[part],
        )
        if kind == "worst":
            held = len(choose(tests, most).examples) + 2 * len({sample.category for sample in tests})
            assert len(collector.shots) <= held
    return collector.pictures()


# --- Which images


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_worst_errors_and_an_example_per_kind(batch):
    tests = samples(["b", "a"], good=7, kinds=["hole", "dent"], each=5)
    rng = np.random.default_rng(3)
    scores = rng.permutation(len(tests)).astype(float)
    found = [picture.entry for picture in collected(tests, scores, batch=batch).pictures]
    frame = pd.DataFrame({"image": [s.image for s in tests], "category": [s.category for s in tests], "score": scores})
    frame["label"] = [sample.label for sample in tests]
    for category, part in frame.groupby("category"):
        own = [entry for entry in found if entry.category == category]
        normal, defective = part[part.label == 0], part[part.label == 1]
        false_alarm, miss = normal.loc[normal.score.idxmax()], defective.loc[defective.score.idxmin()]
        assert [(entry.why, entry.image, entry.score) for entry in own[:2]] == [
            ("false alarm", false_alarm.image, false_alarm.score),
            ("miss", miss.image, miss.score),
        ]
        assert {entry.defect for entry in own[1:]} == {"hole", "dent"}
        assert {entry.why for entry in own[2:]} == {"example"}
        assert len(own) in (3, 4)  # the miss may be an example
    assert [entry.category for entry in found] == sorted(entry.category for entry in found)


def test_examples_are_the_same_whatever_the_scores():
    tests = samples(["a"], good=2, kinds=["hole", "dent"], each=50)
    found = choose(tests)
    assert {image.split("/")[1] for image in found.examples} == {"hole", "dent"}
    assert choose(tests[::-1]) == found


def test_equal_scores_are_decided_by_names():
    tests = samples(["a"], good=3, kinds=["hole"], each=3)
    for order in (tests, tests[::-1]):
        first, second, *_ = collected(order, [0.5] * 6, batch=2).pictures
        assert (first.entry.image, second.entry.image) == ("a/good/0.png", "a/hole/0.png")


@pytest.mark.parametrize(
    ("categories", "kinds", "most", "shown", "examples"),
    [
        (3, 2, 12, 3, 6),  # all of it
        (3, 2, 11, 3, 5),
        (3, 2, 7, 3, 1),
        (3, 2, 6, 3, 0),
        (3, 2, 5, 2, 1),
        (50, 1, 20, 10, 0),
    ],
)
def test_too_many_are_left_out_and_counted(categories, kinds, most, shown, examples):
    tests = samples([f"c{n}" for n in range(categories)], good=1, kinds=[f"k{n}" for n in range(kinds)], each=2)
    choice = choose(tests, most)
    assert (len(choice.categories), len(choice.examples)) == (shown, examples)
    assert choice.left_out == categories * (2 + kinds) - 2 * shown - examples
    assert 2 * len(choice.categories) + len(choice.examples) <= most
    assert {image.split("/")[0] for image in choice.examples} <= choice.categories


def test_all_shows_every_image_and_waits_on_disk(tmp_path):
    tests = samples(["a", "b"], good=3, kinds=["hole"], each=3)
    scores = [float(n) for n in range(len(tests))]
    found = collected(tests, scores, kind="all", folder=tmp_path)
    assert {picture.entry.image for picture in found.pictures} == {sample.image for sample in tests}
    assert [p.entry.why for p in found.pictures if p.entry.category == "a"] == ["false alarm", "miss"] + 4 * ["example"]
    assert not list(tmp_path.iterdir())
    worst = collected(tests, scores)
    content = {picture.entry.image: picture.content for picture in found.pictures}
    assert all(content[picture.entry.image] == picture.content for picture in worst.pictures)


def test_off_keeps_nothing():
    assert collected(samples(["a"], 2, ["hole"]), [1.0, 2, 3], kind="off") == Pictures()


def test_infinite_scores_and_maps_do_no_harm():
    tests = samples(["a"], good=2, kinds=["hole"], each=2)
    maps = torch.rand(4, 32, 32)
    maps[1, :5], maps[2, :5] = math.inf, -math.inf
    found = collected(tests, [0.0, math.inf, -math.inf, 1.0], maps=maps)
    assert [(picture.entry.why, picture.entry.score) for picture in found.pictures[:2]] == [
        ("false alarm", None),
        ("miss", None),
    ]
    assert all(map(math.isfinite, found.scales["a"]))
    json.loads(as_json(Gallery(None, entries=tuple(p.entry for p in found.pictures), scales=found.scales)))


# --- The scale


def test_scale_is_the_stated_rule():
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(20, 64, 64)).astype(np.float32)
    masks = (rng.random((20, 64, 64)) < 0.05).astype(np.uint8)
    masks[:10] = 0
    levels = levels_of(torch.from_numpy(maps), torch.from_numpy(masks))
    found = scale_of([(int(n >= 10), *level) for n, level in enumerate(levels)])
    low = np.median([np.sort(each, axis=None)[(each.size - 1) // 2] for each in maps[:10]])
    high = np.quantile([plane[mask > 0].max() for plane, mask in zip(maps[10:], masks[10:], strict=True)], 0.75)
    assert found == pytest.approx((low, high), rel=1e-6)
    assert scale_of([(1, 2.0, 2.0)]) == (2.0, 4.0)  # a map without contrast
    assert scale_of([(0, 0.1, 0.5), (0, 0.3, 0.9)]) == pytest.approx((0.2, 0.8))  # no defective image


def test_masks_of_other_sizes_give_the_same_scale():
    maps, masks = torch.rand(3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8)
    masks[:, 8:16, 8:16] = 1
    large = [mask.repeat_interleave(k, 0).repeat_interleave(k, 1) for mask, k in zip(masks, (1, 2, 3), strict=True)]
    assert levels_of(maps, large) == levels_of(maps, masks)


def test_one_scale_for_all_pictures_of_a_category():
    """Two images of equal maps look the same, whatever else is in them; one of a stronger map does not."""
    tests = samples(["a"], good=1, kinds=["hole", "dent", "cut"])
    maps = torch.zeros(4, 32, 32)
    maps[1:, 8:16, 8:16] = torch.tensor([1.0, 1.0, 4.0])[:, None, None]
    collector = Collector("worst", choose(tests), None)
    collector.add(tests, torch.zeros(4, 3, 32, 32), torch.tensor([0.0, 1, 2, 3]), maps, None)
    found = collector.pictures()
    assert found.scales == {"a": (0.0, 2.5)}
    content = {picture.entry.defect: picture.content for picture in found.pictures}
    assert content["hole"] == content["dent"] != content["cut"]


# --- Pictures


def test_colors_are_those_of_inferno():
    assert colors().shape == (256, 3)
    lightness = colors() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()  # in order, also in gray
    low, high = heat(np.array([[-1, 0, math.nan, 1, math.inf]], np.float32), 0, 1)[0][[0, -1]]
    assert tuple(low) == (0, 0, 4)
    assert tuple(high) == (252, 255, 164)
    assert (heat(np.array([[0.5]], np.float32), 0, 1)[0, 0] == colors()[127]).all()


def test_outline_lies_around_the_defect():
    image = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    drawn = outlined(image, mask)
    assert (image == 100).all()
    assert (drawn[mask] == 100).all()
    assert (drawn[4, 5:10] == OUTLINE).all()
    assert (drawn[3, 5:10] == RIM).all()
    assert (drawn[12:] == 100).all()
    assert (outlined(image, np.zeros((20, 20), bool)) == image).all()


def test_overlay_has_the_maps_hues_only():
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 200
    mixed = overlay(image, np.array([[0, 1], [0, 1]], np.float32), 0, 1)
    gray = 0.4 * 0.299 * 200
    assert mixed[0, 0] == pytest.approx(0.6 * np.array([0, 0, 4]) + gray, abs=0.5)
    assert mixed[1, 1] == pytest.approx(0.6 * np.array([252, 255, 164]) + gray, abs=0.5)


def opened(content):
    import io

    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("maps", "masks", "panels"), [(None, True, 3), (None, False, 2), (False, True, 2), (False, False, 1)]
)
def test_panels_are_what_is_known(maps, masks, panels):
    tests = samples(["a"], good=1, kinds=["hole"])
    truth = torch.zeros(2, 32, 32, dtype=torch.uint8) if masks else None
    found = collected(tests, [0.0, 1.0], maps=maps, masks=truth)
    for picture in found.pictures:
        assert opened(picture.content).shape == (32, panels * 32 + (panels - 1) * 2, 3)
    assert bool(found.scales) == (maps is None)


def test_no_outline_where_the_truth_is_unknown():
    tests = [Sample("a/hole/0.png", "a", "test", 1, (), "hole")]
    found = collected(tests, [1.0], masks=torch.zeros(1, 32, 32, dtype=torch.uint8))
    assert opened(found.pictures[0].content).shape[1] == 2 * 32 + 2


def test_large_images_become_small_and_a_tiny_defect_stays():
    tests = samples(["a"], good=0, kinds=["hole"])
    masks = torch.zeros(1, 700, 700, dtype=torch.uint8)
    masks[0, 350, 350] = 1
    collector = Collector("worst", choose(tests), None)
    collector.add(tests, torch.zeros(1, 3, 700, 700), torch.tensor([1.0]), torch.rand(1, 700, 700), masks)
    assert collector.shots["a/hole/0.png"].mask_HW.sum() in (1, 2, 4)
    assert opened(collector.pictures().pictures[0].content).shape == (224, 3 * 224 + 4, 3)


# --- Whole runs


def gallery_of(bench, results="results"):
    found = read_gallery(bench.folder(results))
    assert found is not None
    assert found.fault is None
    return found


def contents(gallery):
    return {entry: gallery.path(entry).read_bytes() for entry in gallery.entries}


def test_every_run_has_one(bench):
    assert bench.run() == 0
    gallery, scores = gallery_of(bench), pd.read_csv(bench.folder() / "scores.csv").set_index("image")
    assert gallery.kind == "worst"
    assert {entry.category for entry in gallery.entries} == {"bottle", "cable"}
    for entry in gallery.entries:
        row = scores.loc[entry.image]
        assert (row.category, row.defect, row.label) == (entry.category, entry.defect, entry.label)
        assert row.score == pytest.approx(entry.score)
        assert Image.open(gallery.path(entry)).size == (100, 32)
        if entry.why != "example":
            alike = scores[(scores.category == entry.category) & (scores.label == entry.label)]
            assert row.score == (alike.score.min() if entry.label else alike.score.max())
    assert set(gallery.scales) == {"bottle", "cable"}
    assert record.read(bench.folder()).gallery == "worst"
    stated = json.loads((bench.folder() / "gallery" / "gallery.json").read_text())
    assert stated["schema"] == 1
    assert set(stated["entries"][0]) == {"file", "category", "defect", "image", "label", "score", "why"}


def test_off_has_none_and_decides_nothing(bench):
    assert bench.run("gallery=off") == 0
    folder, made = bench.folder(), record.read(bench.folder())
    assert read_gallery(folder) is None
    assert made.gallery == "off"
    assert bench.run() == 0
    assert record.read(folder).provenance == made.provenance  # the default alone makes nothing again
    bench.hook("first", 1, terminate)  # would stop a training
    assert bench.run("gallery=worst") == 0
    assert bench.folder() == folder
    worst = gallery_of(bench)
    assert record.read(folder).rows == made.rows
    assert record.read(folder).config_hash == made.config_hash
    assert bench.run("gallery=all") == 0
    every = gallery_of(bench)
    assert (every.kind, len(every.entries)) == ("all", 8)
    assert set(contents(worst).values()) <= set(contents(every).values())
    stamp = (folder / "record.json").stat().st_mtime_ns
    for words in (["gallery=worst"], ["gallery=off"], []):  # less than is there
        assert bench.run(*words) == 0
    assert (folder / "record.json").stat().st_mtime_ns == stamp
    assert gallery_of(bench).kind == "all"
    bench.unhook()
    assert bench.run("force=true") == 0
    assert contents(gallery_of(bench)) == contents(worst)
    assert len(list((folder / "gallery").iterdir())) == len(worst.entries) + 1


def test_a_result_of_an_earlier_version_is_finished(bench):
    assert bench.run("gallery=off") == 0
    file = bench.folder() / "record.json"
    stated = json.loads(file.read_text())
    del stated["gallery"]
    file.write_text(json.dumps(stated))
    from ader.config.compose import compose

    assert Outputs.of(record.read(bench.folder())).gallery == "off"
    assert show_finished(compose(bench.words()))
    assert not show_finished(compose(bench.words("gallery=worst")))


def test_a_resumed_run_has_the_gallery_of_one_that_was_not_stopped(bench):
    words = ("setting=single_class",)
    assert bench.run(*words, results="whole") == 0
    bench.hook("collect", 6, terminate)  # of the second category
    assert bench.run(*words) == 1
    assert read_gallery(bench.folder()) is None
    bench.unhook()
    assert bench.run(*words) == 0
    assert contents(gallery_of(bench)) == contents(gallery_of(bench, "whole")) != {}
    assert gallery_of(bench).scales == gallery_of(bench, "whole").scales


@pytest.mark.parametrize("kind", ["worst", "all"])
def test_two_processes_show_what_one_does(bench, kind):
    words = (f"gallery={kind}", "trainer.test_batch_size=3")
    method = "patchcore"
    assert bench.run(*words, method=method, results="one") == 0
    for ended in run_together(2, bench.words(*words, method=method, results="two"), bench.root):
        assert ended.status == 0, ended.text
    one, two = gallery_of(bench, "one"), gallery_of(bench, "two")
    assert [entry.image for entry in one.entries] == [entry.image for entry in two.entries]
    assert [entry.why for entry in one.entries] == [entry.why for entry in two.entries]
    assert one.scales.keys() == two.scales.keys()
    for category, scale in one.scales.items():
        assert scale == pytest.approx(two.scales[category], rel=1e-4)


def test_ader_eval_makes_one(bench):
    from ader.__main__ import main

    assert bench.run("gallery=off") == 0
    assert main(["eval", str(bench.folder()), "gallery=all"]) == 0
    assert gallery_of(bench).kind == "all"
    assert main(["eval", str(bench.folder())]) == 0  # what was there is there again
    assert gallery_of(bench).kind == "all"


# --- On disk


def a_gallery(folder, count=2):
    entries = [Entry("", "a", "hole", f"a/<b>{n}.png", 1, 0.5, "example") for n in range(count)]
    pictures = [Picture(entry, webp(np.full((4, 4, 3), n, np.uint8))) for n, entry in enumerate(entries)]
    write_gallery(folder, "worst", Pictures({"a": (0.0, 1.0)}, pictures), left_out=3)


def test_one_replaces_another_as_a_whole(tmp_path):
    for count in (12, 2):
        a_gallery(tmp_path, count)
        found = read_gallery(tmp_path)
        assert [entry.file for entry in found.entries] == [f"{n:03}.webp" for n in range(count)]
        assert sorted(os.listdir(tmp_path)) == ["gallery"]
        assert len(os.listdir(tmp_path / "gallery")) == count + 1
        assert (found.left_out, found.fault, found.scales) == (3, None, {"a": (0.0, 1.0)})
    assert (tmp_path / "gallery").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask():
    from ader.system.files import UMASK

    return UMASK


def test_a_disk_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    a_gallery(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()}

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ader.runs.gallery.write_atomic", full)
    with pytest.raises(WriteError, match="No space"):
        a_gallery(tmp_path, 5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()} == before
    assert os.listdir(tmp_path) == ["gallery"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 1}', "is damaged"),
        ('{"schema": 2}', "has schema 2"),
        (None, "is a FIFO"),
    ],
)
def test_damage_is_said_in_one_line(tmp_path, text, fault):
    a_gallery(tmp_path)
    file = tmp_path / "gallery" / "gallery.json"
    file.unlink()
    if text is None:
        os.mkfifo(file)
    else:
        file.write_text(text)
    found = read_gallery(tmp_path)
    assert fault in found.fault
    assert "\n" not in found.fault
    assert found.entries == ()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "000.webp/..", "0.webp", "000.webp\n", "000.svg"])
def test_only_pictures_of_its_own_are_opened(tmp_path, name):
    a_gallery(tmp_path)
    file = tmp_path / "gallery" / "gallery.json"
    stated = json.loads(file.read_text())
    stated["entries"][0]["file"] = name
    file.write_text(json.dumps(stated))
    assert "is damaged" in read_gallery(tmp_path).fault


def test_missing_pictures_are_left_out_and_said(tmp_path):
    assert read_gallery(tmp_path) is None
    a_gallery(tmp_path)
    (tmp_path / "gallery" / "000.webp").unlink()
    found = read_gallery(tmp_path)
    assert [entry.file for entry in found.entries] == ["001.webp"]
    assert found.fault.startswith("1 of the 2 pictures")


def test_a_choice_may_be_empty():
    assert choose([]) == Choice()


def test_panels_stand_in_a_row():
    row = side_by_side([np.zeros((4, 4, 3), np.uint8)] * 2)
    assert row.shape == (4, 10, 3)
    assert (row[:, 4:6] == 255).all()
