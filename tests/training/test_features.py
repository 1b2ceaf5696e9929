"""Rows of features on disk, and when they are read."""

from __future__ import annotations

import errno
import re

import pytest
import torch
from torch import nn

from ader.data.caching import SPARE
from ader.nets.frozen import Frozen
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.files import UMASK
from ader.training import feature_rows, features
from ader.training.feature_rows import Layout, Rows, remove
from ader.training.features import FeatureCache

CPU = torch.device("cpu")
NAMES = ["a" * 64, "b" * 64]


class Halved(Frozen):
    """Counts how often it computes."""

    def __init__(self, by_place=False):
        super().__init__()
        self.scale, self.by_place, self.calls = nn.Parameter(torch.tensor(0.5), requires_grad=False), by_place, 0

    @property
    def reads(self):
        return (1,)

    def forward(self, image_BCHW):
        return self.remembered(image_BCHW, self.compute)

    def compute(self, image_BCHW):
        self.calls += 1
        places = torch.arange(len(image_BCHW)).view(-1, 1, 1, 1) if self.by_place else 0
        return [image_BCHW * self.scale + places, image_BCHW.mean(dim=1).to(torch.bfloat16)]


def step(cache, net, image_BCHW, given=None, again=True):
    """What the network gives in a step of a stage with batches of two, and how often it computed."""
    before = net.calls
    with cache.during(net, CPU, images=2, whole=2, again=again) as arrive:
        arrive(image_BCHW)
        values = net(image_BCHW if given is None else given)
    return values, net.calls - before


@pytest.fixture
def image_BCHW():
    return torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_second_time_is_read(tmp_path, image_BCHW):
    net = Halved()
    expected = net.compute(image_BCHW)
    assert step(FeatureCache(tmp_path), net, image_BCHW)[1] == 2  # one of them looks at the places
    values, calls = step(FeatureCache(tmp_path), net, image_BCHW.flip(0))  # another run looks again, and reads
    assert calls == 1
    assert all(one.flip(0).equal(two) and one.dtype == two.dtype for one, two in zip(expected, values, strict=True))
    values[0].zero_()  # what the method does with it is its own
    assert step(FeatureCache(tmp_path), net, image_BCHW)[0][0].equal(expected[0])


def test_other_tensors_are_computed(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path), Halved()
    step(cache, net, image_BCHW)
    assert step(cache, net, image_BCHW)[1] == 0
    assert step(cache, net, image_BCHW, image_BCHW.clone())[1] == 1  # equal, and not the same
    assert step(cache, net, image_BCHW[:1])[1] == 1  # an incomplete batch
    with cache.during(net, CPU, 2, 2, True) as arrive:
        arrive(image_BCHW)
        net(image_BCHW)  # whose names are known from here
        image_BCHW.mul_(2)  # in place
        assert net(image_BCHW)[0].equal(image_BCHW / 2)
    assert net.memory is None


def test_changed_weights_are_another_network(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path), Halved()
    step(cache, net, image_BCHW)
    net.scale.data.fill_(0.25)
    assert step(cache, net, image_BCHW)[0][0].equal(image_BCHW / 4)


def test_not_read_where_places_differ(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path, "on"), Halved(by_place=True)
    expected = net.compute(image_BCHW)[0]
    assert all(step(cache, net, image_BCHW)[0][0].equal(expected) for _ in range(2))
    assert not list(tmp_path.rglob("*.row"))


def test_another_machine_has_its_own_rows(tmp_path, image_BCHW, monkeypatch):
    net, other = Halved(), Halved()
    step(FeatureCache(tmp_path), net, image_BCHW)
    monkeypatch.setattr(other, "compute", lambda image: [image / 3, image.mean(dim=1).to(torch.bfloat16)])
    for _ in range(2):
        assert step(FeatureCache(tmp_path), other, image_BCHW)[0][0].equal(image_BCHW / 3)
        assert step(FeatureCache(tmp_path), net, image_BCHW)[0][0].equal(image_BCHW / 2)
    assert len(list(tmp_path.glob("features/*/*.row"))) == 4


def test_weights_changed_unseen_are_refused(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path), Halved()

    def change():
        with cache.during(net, CPU, 2, 2, True) as arrive:
            arrive(image_BCHW)
            net(image_BCHW)
            net.scale.data.fill_(0.25)

    with pytest.raises(RuntimeError, match=r"Halved is Frozen, and was changed through \.data"):
        change()


def test_weights_changed_in_place_are_another_network_at_once(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path), Halved()
    with cache.during(net, CPU, 2, 2, True) as arrive:
        for scale in (0.5, 0.25, 0.5):
            with torch.no_grad():
                net.scale.fill_(scale)
            arrive(image_BCHW)
            assert net(image_BCHW)[0].equal(image_BCHW * scale)
    assert (cache.served, cache.computed) == (2, 4)


def test_auto_leaves_single_sweeps_and_small_disks(tmp_path, image_BCHW, monkeypatch):
    step(FeatureCache(tmp_path), Halved(), image_BCHW, again=False)
    monkeypatch.setattr(features, "LIMIT", 100)
    step(FeatureCache(tmp_path), Halved(), image_BCHW)
    assert not list(tmp_path.rglob("*.row"))


def test_on_is_refused_without_room(tmp_path, image_BCHW, monkeypatch):
    monkeypatch.setattr(features, "free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match=r"cache_features=on: features of 2 images.*1.0 KiB are.*give paths.cache"):
        step(FeatureCache(tmp_path, "on"), Halved(), image_BCHW)


def test_writing_ends_where_the_disk_is_nearly_full(tmp_path, image_BCHW, monkeypatch, capsys):
    cache, net = FeatureCache(tmp_path, console=Console()), Halved()
    step(cache, net, image_BCHW)
    monkeypatch.setattr(features, "free_bytes", lambda folder: SPARE)
    assert step(cache, net, image_BCHW / 3)[0][0].equal(image_BCHW / 6)
    assert step(cache, net, image_BCHW)[1] == 0  # what is there is read
    assert "takes no more (2.0 GiB stay free): the rest is computed" in capsys.readouterr().out


def test_rows_of_other_images_are_no_room(tmp_path, image_BCHW, capsys):
    """One category after another in one folder, as in the single-class setting."""
    for category in (image_BCHW, image_BCHW / 3):
        step(FeatureCache(tmp_path, console=Console()), Halved(), category)
        assert re.search(r"caching features of 2 images, 0.4 KiB each: up to 0.8 KiB in ", capsys.readouterr().out)
    step(FeatureCache(tmp_path, console=Console()), Halved(), image_BCHW)
    said = capsys.readouterr().out
    assert re.search(r"reading features of 2 images, 0.4 KiB each, from \S+/features/\w{32}$", said, re.MULTILINE)
    assert f"features of 2 images were read from {tmp_path}/features, of 0 computed" in said


def test_rows_in_a_folder_that_takes_no_files_are_read(tmp_path, image_BCHW, monkeypatch):
    net = Halved()
    step(FeatureCache(tmp_path), net, image_BCHW)

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(feature_rows, "write_atomic", refuse)
    monkeypatch.setattr(feature_rows.tempfile, "mkstemp", refuse)
    assert step(FeatureCache(tmp_path, "on"), net, image_BCHW)[1] == 1  # of noise
    assert step(FeatureCache(tmp_path), net, image_BCHW / 3)[0][0].equal(image_BCHW / 6)
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\): give paths.cache"):
        step(FeatureCache(tmp_path, "on"), net, image_BCHW / 3)


def test_cleared_meanwhile(tmp_path, image_BCHW):
    cache, net = FeatureCache(tmp_path), Halved()
    step(cache, net, image_BCHW)
    remove(tmp_path)
    assert step(cache, net, image_BCHW)[1] == 1
    assert step(cache, net, image_BCHW)[1] == 0


def rows(folder):
    values = [torch.rand(2, 5, 3), torch.rand(2, 4, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)]
    found = Rows(folder, [Layout.of(value) for value in values])
    found.prepare()
    found.put(NAMES, values)
    return found, values


def test_layout_comes_back(tmp_path):
    found, values = rows(tmp_path)
    again = found.take(NAMES[::-1])
    assert all(one.flip(0).equal(two) and one.stride() == two.stride() for one, two in zip(values, again, strict=True))


@pytest.mark.parametrize("place", [3, -1, None])
def test_damaged_rows_are_computed_again(tmp_path, place):
    found, values = rows(tmp_path)
    file = tmp_path / f"{NAMES[1]}.row"
    content = bytearray(file.read_bytes())
    if place is None:
        del content[-7:]
    else:
        content[place] ^= 1
    file.write_bytes(content)
    assert found.take(NAMES) is None
    assert found.damaged == 1
    found.put(NAMES, values)
    assert found.take(NAMES)[0].equal(values[0])


def test_rows_are_for_other_users_too(tmp_path, monkeypatch):
    found, _ = rows(tmp_path)
    files = list(tmp_path.glob("*.row"))
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~UMASK}

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(feature_rows.Path, "open", refuse)  # one that is not: not read, and left
    assert found.take(NAMES) is None
    assert (found.damaged, len(files)) == (0, len(list(tmp_path.glob("*.row"))))


def test_row_of_another_image_is_damaged(tmp_path):
    found, _ = rows(tmp_path)
    (tmp_path / f"{NAMES[0]}.row").replace(tmp_path / f"{NAMES[1]}.row")
    assert not found._read(NAMES[1])


def test_remove(tmp_path, image_BCHW):
    assert remove(tmp_path) == 0
    step(FeatureCache(tmp_path), Halved(), image_BCHW)
    assert remove(tmp_path) > 2 * (3 * 4 * 4 * 4 + 4 * 4 * 2)
    assert list(tmp_path.iterdir()) == []
