"""What every dataset reader must satisfy; for this project's readers and for those of other packages.

Use in a test::

    from ader.testing.dataset_checks import check_dataset
    def test_mine(): check_dataset(lambda: load_index("mine", root))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from ader.data.image import load_image, read_image
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.masks import load_mask, read_masks
from ader.system.errors import some

Check = Callable[[Index], None]


def check_dataset(read: Callable[[], Index], *, labeled_train: bool = False, images: int = 3) -> None:
    """Runs every check.

    Args:
        read: reads the index; called twice.
        labeled_train: whether the training data may hold defective images.
        images: normal and defective images to load per category, each.

    Raises:
        AssertionError: a check fails; the message names the samples.
    """
    index = read()
    for check in CHECKS:
        check(index)
    if not labeled_train:
        check_train_is_normal(index)
    check_reading_again(index, read())
    check_loading(index, images)


def check_has_samples(index: Index) -> None:
    """Categories are unique, no sample has another category, and there are training and test images.

    A category may have images for training only, or for testing only (drifts that are not trained on).
    """
    assert index.samples, f"{index.name}: no samples"
    assert len(set(index.categories)) == len(index.categories), f"repeated categories: {index.categories}"
    assert {sample.category for sample in index} == set(index.categories), "categories and samples disagree"
    assert any(sample.split == TRAIN for sample in index), f"{index.name}: no training images"
    assert any(sample.split == TEST for sample in index), f"{index.name}: no test images"


def check_order(index: Index) -> None:
    """Samples come category by category, in the order of ``categories``."""
    met = list(dict.fromkeys(sample.category for sample in index))
    blocks = [name for name, _ in groupby(sample.category for sample in index)]
    assert met == list(index.categories), f"samples begin in the order {met}, categories are {index.categories}"
    assert blocks == met, "the samples of a category are not together"


def check_unique_images(index: Index) -> None:
    """No image occurs twice, within a split or in training and test data; no mask serves two."""
    _none("images that occur twice", _repeated([sample.image for sample in index]))
    _none("masks of two images", _repeated([mask for sample in index for mask in sample.masks]))


def check_no_leak(index: Index) -> None:
    """No test file is a training file under another path (symbolic or hard link)."""
    train = {_identity(index, sample): sample.image for sample in index if sample.split != TEST}
    shared = [s.image for s in index if s.split == TEST and _identity(index, s) in train]
    _none("test images that are also training images", shared)


def check_paths(index: Index) -> None:
    """Paths are relative and POSIX, and every file exists."""
    names = [name for sample in index for name in (sample.image, *sample.masks)]
    odd = [name for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]
    _none("paths that are not relative POSIX paths", odd)
    _none("files that do not exist", [name for name in names if not index.path(name).is_file()])


def check_labels(index: Index) -> None:
    """Labels are 0 or 1; a sample's defect is ``"good"`` if and only if it is normal (for training: if normal)."""
    _none("labels other than 0 and 1", [s.image for s in index if s.label not in (0, 1)])
    _none("labels against the defect's name", [s.image for s in index if _contradicts(s)])


def check_masks(index: Index) -> None:
    """An index without pixel truth has no masks; masks of normal images mark nothing."""
    masked = [sample for sample in index if sample.masks]
    if not index.has_masks:
        _none("masks in an index that declares none", [sample.image for sample in masked])
    marked = [s.image for s in masked if not s.label and np.asarray(read_masks(_masks(index, s))).any()]
    _none("normal images with a mask that marks a defect", marked)


def check_train_is_normal(index: Index) -> None:
    """Training data hold no defective image."""
    _none("defective training images", [s.image for s in index if s.split != TEST and s.label])


def check_reading_again(first: Index, second: Index) -> None:
    """Reading twice gives equal samples in equal order, and so the same digest."""
    assert first.samples == second.samples, "reading twice gives other samples or another order"
    assert first.categories == second.categories, "reading twice gives other categories"
    assert first.digest() == second.digest(), "reading twice gives another digest"


def check_loading(index: Index, images: int = 3, size: int = 40) -> None:
    """A few images per category load as uint8 (3, size, size), masks as 0 / 1 (size, size) of equal geometry.

    Args:
        index: the dataset.
        images: normal and defective images to load per category, each.
        size: side in pixels.
    """
    for sample in _few(index, images):
        image = load_image(index.path(sample.image), size, bits=index.bits)
        assert image.dtype == np.uint8, f"{sample.image}: {image.dtype}"
        assert image.shape == (3, size, size), f"{sample.image}: {image.shape}"
        mask = load_mask(_masks(index, sample), size)
        assert mask.dtype == np.uint8, f"{sample.masks}: {mask.dtype}"
        assert mask.shape == (size, size), f"{sample.masks}: {mask.shape}"
        assert set(np.unique(mask)) <= {0, 1}, f"{sample.masks}: values {np.unique(mask)}"
        if sample.masks:
            whole, image_size = (
                read_masks(_masks(index, sample)),
                read_image(index.path(sample.image), bits=index.bits).size,
            )
            assert whole.size == image_size, f"{sample.masks} is {whole.size}, its image {image_size}"
            assert np.asarray(whole).any() == bool(sample.label), f"{sample.masks} contradicts its label"


CHECKS: tuple[Check, ...] = (
    check_labels,  # first: others count by label
    check_has_samples,
    check_order,
    check_unique_images,
    check_paths,
    check_no_leak,
    check_masks,
)


def _contradicts(sample: Sample) -> bool:
    """Training data may hold defects under the label of normal images, where a dataset publishes noisy ones."""
    if sample.split == TEST:
        return (sample.defect == "good") == bool(sample.label)
    return sample.defect == "good" and bool(sample.label)


def _few(index: Index, images: int) -> list[Sample]:
    seen: Counter[tuple[str, int]] = Counter()
    chosen = []
    for sample in index:
        seen[sample.category, sample.label] += 1
        if seen[sample.category, sample.label] <= images:
            chosen.append(sample)
    return chosen


def _masks(index: Index, sample: Sample) -> list[Path]:
    return [index.path(name) for name in sample.masks]


def _identity(index: Index, sample: Sample) -> tuple[int, int]:
    """Device and inode: equal for links to one file."""
    stat = index.path(sample.image).stat()
    return stat.st_dev, stat.st_ino


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _none(what: str, names: Sequence[str]) -> None:
    assert not names, f"{what}: {some(names)}"
