"""How many images an index has, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ader.data.index import TEST, TRAIN, Index, Sample


def census(index: Index) -> str:
    """``15 categories: 3629 training, 467 normal and 1258 defective test images``."""
    training: dict[str, list[Sample]] = {}
    for sample in index:
        if sample.split != TEST:
            training.setdefault(sample.split, []).append(sample)
    parts = [
        _training(split, samples) for split, samples in sorted(training.items(), key=lambda item: item[0] != TRAIN)
    ]
    good, bad = (sum(sample.label == label for sample in index.split(TEST)) for label in (0, 1))
    parts.append(f"{good} normal and {bad} defective test images")
    count = len(index.categories)
    return f"{count} categor{'y' if count == 1 else 'ies'}: {', '.join(parts)}"


def _training(split: str, samples: Sequence[Sample]) -> str:
    """How many images a part of the training data has, and how many are not what normal training images are."""
    labeled = sum(sample.label for sample in samples)
    wrong = sum(not sample.label and sample.defect != "good" for sample in samples)
    notes = [f"{labeled} defective"] * bool(labeled) + [f"{wrong} defective but said to be normal"] * bool(wrong)
    name = "training" if split == TRAIN else split
    return f"{len(samples)} {name}" + (f" ({', '.join(notes)})" if notes else "")
