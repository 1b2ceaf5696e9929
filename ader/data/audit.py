"""Everything that can be wrong with a dataset on disk: numbers, files, masks, duplicates. Nothing here prints."""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ader.data.check import ALL_ZERO, MARKED_NORMAL, MASK_SIZE, MISSING, UNREADABLE, by, look_at
from ader.data.counts import TOTAL, Row, differing
from ader.data.depth import shallow, top_of
from ader.data.image import read_header
from ader.data.index import TEST, Index, Sample
from ader.data.left_out import left_out
from ader.data.listing import SUFFIXES, listing, relative
from ader.data.masks import MaskRule, load_mask
from ader.system.errors import some
from ader.system.parallel import ahead, threads

Verdict = Literal["wrong", "note"]

COUNTS, EXTRA, NO_MASK = "counts", "extra files", "defects without mask"
LEAKS, CONFLICTS, DUPLICATES = "test images in training", "conflicting duplicates", "duplicates"
ZERO_AMONG, VANISHING, SOFT = "all-zero among several", "vanishing defects", "masks with soft edges"
LEFT_OUT, SHALLOW, TURNED = "left-out files", "bits of 16-bit images", "turned by orientation tag"

#: All checks in the order of the report, and what it means that one finds something.
CHECKS: dict[str, Verdict] = {
    COUNTS: "wrong",
    MISSING: "wrong",
    UNREADABLE: "wrong",
    EXTRA: "wrong",
    LEFT_OUT: "note",
    SHALLOW: "wrong",
    MASK_SIZE: "wrong",
    ALL_ZERO: "wrong",
    ZERO_AMONG: "note",  # the image's other masks mark something, so that nothing is lost but perhaps a part
    MARKED_NORMAL: "wrong",
    NO_MASK: "wrong",
    LEAKS: "wrong",
    CONFLICTS: "wrong",
    DUPLICATES: "note",
    VANISHING: "note",
    SOFT: "note",
    TURNED: "note",
}

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: a key of ``CHECKS``.
        path: the file, relative to the index's root; empty where it is no file's fault.
        detail: a clause that continues the path.
    """

    check: str
    path: str
    detail: str

    @property
    def verdict(self) -> Verdict:
        return CHECKS[self.check]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        index: what was looked at.
        findings: all of them, in the order of ``CHECKS``.
        skipped: checks that do not apply to this dataset.
        sizes: per category, the sizes of its images in pixels.
        image_size: at which defects may vanish.
        mask_rule: which levels of masks are defective.
    """

    index: Index
    findings: tuple[Finding, ...]
    skipped: frozenset[str]
    sizes: Mapping[str, frozenset[Size]]
    image_size: int
    mask_rule: MaskRule = "any"

    def found(self, check: str) -> list[Finding]:
        """What one check found."""
        return [finding for finding in self.findings if finding.check == check]

    def wrong(self) -> Counter[str]:
        """How many things are wrong, by check; notes do not count."""
        return Counter(finding.check for finding in self.findings if finding.verdict == "wrong")

    def numbers(self) -> dict[str, Counter[str]]:
        """Per category: normal images of each training split, defective ones of all of them, test images, masks."""
        table: dict[str, Counter[str]] = {name: Counter() for name in self.index.categories}
        for sample in self.index:
            row = table[sample.category]
            if sample.split == TEST:
                row["test defects" if sample.label else "test good"] += 1
            else:
                row["training defects" if sample.label else sample.split] += 1
            row["masks"] += len(sample.masks)
        return table

    def as_csv(self) -> bytes:
        """Everything, a row for each finding. Names that are not UTF-8 are escaped."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("verdict", "check", "path", "detail"))
        writer.writerows((each.verdict, each.check, each.path, each.detail) for each in self.findings)
        return text.getvalue().encode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a sample's files after they were decoded; without the pixels, which would fill the memory.

    Attributes:
        size: of the image; None where it cannot be read.
        pixels: their digest.
        findings: of this sample alone.
        deep_top: the image's largest value, if it has 16 bits.
    """

    size: Size | None
    pixels: bytes | None
    findings: tuple[Finding, ...]
    deep_top: int | None = None


def audit(
    index: Index,
    counts: Mapping[str, Row] | None,
    *,
    whole: bool,
    image_size: int,
    workers: int,
    mask_rule: MaskRule = "any",
    step: Callable[[], object] = lambda: None,
) -> Audit:
    """Looks at every file of a dataset; images and masks are decoded in threads.

    Args:
        index: as the reader gives it, its splits not joined.
        counts: the published numbers, see ``ader.data.counts``; None if there are none.
        whole: whether the index has all categories, so that other files below its root belong to none.
        image_size: pixels; defects that vanish at this size are listed.
        workers: threads; below 1 counts as 1.
        mask_rule: which levels of masks are defective.
        step: called after each sample; may raise to interrupt.

    Raises:
        UserError: a folder cannot be listed.
    """
    findings = [Finding(COUNTS, "", clause) for clause in differing(index, counts or {}, whole)]
    findings += _extra(index) if whole else []
    findings += [Finding(LEFT_OUT, name, "lies among the images and has no image's ending") for name in left_out(index)]
    sizes: dict[str, set[Size]] = {name: set() for name in index.categories}
    highest: dict[str, int] = {}
    same: defaultdict[bytes, list[Sample]] = defaultdict(list)
    with threads(workers, "audit") as pool:
        all_seen = ahead(pool, lambda sample: _see(index, sample, image_size, mask_rule), index, 4 * max(1, workers))
        for sample, seen in zip(index, all_seen, strict=True):
            findings += seen.findings
            if seen.size is not None and seen.pixels is not None:
                sizes[sample.category].add(seen.size)
                same[seen.pixels].append(sample)
            if seen.deep_top is not None:
                highest[sample.category] = max(seen.deep_top, highest.get(sample.category, 0))
            step()
    if index.bits is None:
        findings += [Finding(SHALLOW, "", f"{name!r} {clause}") for name, clause in shallow(highest).items()]
    findings += _duplicates(same.values())
    order = list(CHECKS)
    return Audit(
        index=index,
        # several samples may share a file
        findings=tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.check))),
        skipped=frozenset(_skipped(index, counts or {}, whole)),
        sizes={name: frozenset(found) for name, found in sizes.items()},
        image_size=image_size,
        mask_rule=mask_rule,
    )


def _skipped(index: Index, counts: Mapping[str, Row], whole: bool) -> Iterator[str]:
    if not set(counts) & {*index.categories, *[TOTAL] * whole}:
        yield COUNTS
    if not whole:
        yield EXTRA
    if not index.has_masks:
        yield NO_MASK
    most = max((len(sample.masks) for sample in index), default=0)
    if most < 2:
        yield ZERO_AMONG
    if most < 1:
        yield from (MASK_SIZE, ALL_ZERO, MARKED_NORMAL, VANISHING, SOFT)


def _extra(index: Index) -> Iterator[Finding]:
    """Images that belong to no sample."""
    used = {posixpath.normpath(name) for sample in index for name in (sample.image, *sample.masks)}
    for path in _images_below(index.root, frozenset()):
        name = relative(path, index.root)
        if name not in used and not index.excepted(name):
            yield Finding(EXTRA, name, "belongs to no sample")


def _images_below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """All image files below a folder. Links are followed, but not to a folder that they lie in (``above``)."""
    stat = folder.stat()
    mark = (stat.st_dev, stat.st_ino)
    if mark in above:
        return
    for entry in listing(folder):
        if entry.is_dir():
            yield from _images_below(entry, above | {mark})
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def _see(index: Index, sample: Sample, image_size: int, rule: MaskRule) -> _Seen:
    """Decodes one sample's files and judges them."""
    look = look_at(index, sample, rule=rule)
    findings = [Finding(each.kind, name, each.what) for each in look.problems for name in each.files]
    read = "cut at one half" if rule == "half" else "every level above 0 is defective"
    findings += [
        Finding(SOFT, name, f"has {many} levels: {read} (metric.mask_rule)") for name, many in look.soft.items()
    ]
    if sample.label and any(look.marks.values()):
        empty = (name for name, marks in look.marks.items() if not marks)
        findings += [Finding(ZERO_AMONG, name, f"is all zero, other masks of {sample.image} are not") for name in empty]
        paths = [index.path(name) for name in sample.masks]
        if not look.problems and not load_mask(paths, image_size, rule=rule).any():
            what = f"has a defect that {some(sample.masks)} marks, but not at {by((image_size, image_size))} pixels"
            findings.append(Finding(VANISHING, sample.image, what))
    if sample.label and index.has_masks and not sample.masks and not index.excepted(sample.image):
        findings.append(Finding(NO_MASK, sample.image, "is defective and has no mask"))
    if look.image is None:
        return _Seen(None, None, tuple(findings))
    header = read_header(index.path(sample.image))
    if header.orientation > 1:
        findings.append(Finding(TURNED, sample.image, f"has orientation {header.orientation}, and is turned upright"))
    # of pixels, not of files, which may store the same ones otherwise; 16-bit values count with the high byte in use
    pixels = hashlib.blake2b(by(look.image.size).encode(), digest_size=16)
    pixels.update(look.image.tobytes())
    deep_top = top_of(look.image) if header.bits is None else None
    return _Seen(look.image.size, pixels.digest(), tuple(findings), deep_top)


def _duplicates(groups: Iterable[Sequence[Sample]]) -> Iterator[Finding]:
    """Judges samples of equal pixels: tested ones beside training ones, then each part by itself."""
    for samples in groups:
        training = [sample for sample in samples if sample.split != TEST]
        tested = [sample for sample in samples if sample.split == TEST]
        if training:
            yield from (_twin(LEAKS, sample, training[0]) for sample in tested)
        yield from _repeated(training)
        yield from _repeated(tested)


def _repeated(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Each sample of equal pixels that is not the first, with a twin: one with another label or category if any."""
    first: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        said = (sample.category, sample.label)
        rivals = [other for key, other in first.items() if key != said]
        if rivals:
            yield _twin(CONFLICTS, sample, rivals[0])
        elif said in first:
            yield _twin(DUPLICATES, sample, first[said])
        first.setdefault(said, sample)


def _twin(check: str, sample: Sample, other: Sample) -> Finding:
    return Finding(check, sample.image, f"has the pixels of {other.image} ({other.category}, {other.defect})")
