"""Compares an index with the numbers of images that its dataset publishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ader.data.index import Index
from ader.system.errors import UserError, some

#: What a dataset's YAML states of a category: [training, normal test, defective test], or numbers by split and label
#: (``train_good``, ``validation_good``, ``test_bad`` ...), of which a list means any of its numbers.
Row = Sequence[int] | Mapping[str, int | Sequence[int]]

SHORT = ("train_good", "test_good", "test_bad")

#: The row that states sums over all categories, where no numbers per category are known.
TOTAL = "total"


def check_counts(index: Index, counts: Mapping[str, Row], whole: bool = True, strict: bool = True) -> Index:
    """Compares an index with the published counts.

    Args:
        index: what was found.
        counts: by category, or ``total``.
        whole: whether the index has all categories, so that totals can be compared.
        strict: other numbers are refused; False makes them a caution.

    Returns:
        The index, with the caution.

    Raises:
        UserError: any category differs.
    """
    wrong = list(differing(index, counts, whole))
    if not wrong:
        return index
    if not strict:
        return index.cautioned(f"the images are not those of the published dataset: {some(wrong, 3)}")
    raise UserError(
        f"dataset {index.name!r} at {index.root} is not as published: {some(wrong)}: unpack the archive again, or "
        "set dataset.check_counts=false to run on what is there"
    )


def differing(index: Index, counts: Mapping[str, Row], whole: bool = True) -> Iterator[str]:
    """A clause for each category whose numbers differ."""
    found = index.tally()
    if whole:
        found[TOTAL] = sum(found.values(), Counter())
    for name, row in counts.items():
        if name in found:
            wrong = [
                f"{found[name][key]} {key} (published {' or '.join(map(str, stated))})"
                for key, stated in columns(row, found[name])
                if found[name][key] not in stated
            ]
            if wrong:
                yield f"{name} has {', '.join(wrong)}"


def columns(row: Row, found: Mapping[str, int]) -> Iterator[tuple[str, Sequence[int]]]:
    """Every number that a row states, as the numbers that are right; what was found and is not stated must be 0."""
    stated = row if isinstance(row, Mapping) else dict(zip(SHORT, row, strict=True))
    for key in dict.fromkeys([*stated, *found]):
        value = stated.get(key, 0)
        yield key, [value] if isinstance(value, int) else value


def images(counts: Mapping[str, Row]) -> int:
    """All images that a dataset publishes; the first of alternatives."""
    rows = [counts[TOTAL]] if TOTAL in counts else list(counts.values())
    return sum(stated[0] for row in rows for _, stated in columns(row, {}))
