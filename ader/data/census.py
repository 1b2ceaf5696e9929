"""How many images an index has, in words."""

from __future__ import annotations

from ader.data.index import TEST, TRAIN, Index, Sample


def census(index: Index) -> str:
    """``15 categories: 3629 training, 467 normal and 1258 defective test images``."""
    training: dict[str, list[Sample]] = {}
    for sample in index:
        if sample.split != TEST:
            training.setdefault(sample.split, []).append(sample)
    parts = []
    for split, samples in sorted(training.items(), key=lambda item: item[0] != TRAIN):
        # said where there are any, because training images are normal without more words
        labeled = sum(sample.label for sample in samples)
        wrong = sum(not sample.label and sample.defect != "good" for sample in samples)
        notes = [f"{labeled} defective"] * bool(labeled) + [f"{wrong} defective but said to be normal"] * bool(wrong)
        name = "training" if split == TRAIN else split
        parts.append(f"{len(samples)} {name}" + (f" ({', '.join(notes)})" if notes else ""))
    good, bad = (sum(sample.label == label for sample in index.split(TEST)) for label in (0, 1))
    parts.append(f"{good} normal and {bad} defective test images")
    count = len(index.categories)
    return f"{count} categor{'y' if count == 1 else 'ies'}: {', '.join(parts)}"
