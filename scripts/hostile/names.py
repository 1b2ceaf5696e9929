"""Names of categories, defects and files that are strange: what controls a terminal, what no table or path can hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from scripts.hostile.replay import Case, Prepare
from scripts.hostile.world import FINISHED, RUN, World

KIND = "names"
HERE = (*RUN[:-1], "run=named", "save_maps=true", "metric.by_defect=true")

#: Names that work wherever a file system has them; what is printed must be harmless.
NAMES = {
    "escape code": "a\x1b[2Jb",
    "title": "a\x1b]0;owned\x07b",
    "return": "a\rb",
    "line end": "a\nb",
    "tab": "a\tb",
    "bell": "a\x07b",
    "delete": "a\x7fb",
    "C1": "a\x9b2Jb",
    "right to left": "a\u202eb",
    "isolate": "a\u2066b",
    "line separator": "a\u2028b",
    "zero width": "a\u200bb",
    "not UTF-8": os.fsdecode(b"a\xffb"),
    "markup": "[red]a[bold]",
    "HTML": "<script>alert(1)<" + "\u2215" + "script>",
    "LaTeX": "a\\input{x}%_&#$",
    "Markdown": "a|b`c`*d*",
    "formula": "=1+1",
    "comma": "a,b",
    "quotes": "a'b\"c",
    "blank": "a b",
    "ends in a blank": "a ",
    "equals": "a=b",
    "dollar": "${seed}",
    "percent": "%s%n{0}",
    "wide": "\u6f22\u5b57\U0001f600",
    "accents apart": "e\u0301",
    "long": "n" * 255,
    "long in bytes": "\u6f22" * 85,
    "backslash": "a\\b",
    "colon": "a:b",
    "minus": "-rf",
    "tilde": "~root",
    "number": "1.10",
    "octal": "007",
    "truth value": "true",
    "null": "null",
    "chance": "chance",
    "mean": "mean",
}


def cases() -> Iterator[Case]:
    """Each name as a category's, a defect's and an image's; then the finished run is shown again."""
    for what, name in NAMES.items():
        yield Case(KIND, f"category {what}", HERE, "either", prepare=_category(name))
        yield Case(KIND, f"defect {what}", HERE, "either", prepare=_defect(name))
        yield Case(KIND, f"image {what}", HERE, "either", prepare=_image(name))
        yield Case(KIND, f"check {what}", ("data", "check", *RUN[:2]), "either", prepare=_all_three(name))
    for what in ("escape code", "title", "return", "right to left", "not UTF-8", "markup", "C1"):
        damaged = _damaged(NAMES[what])
        yield Case(KIND, f"damaged image {what}", HERE, "refused", prepare=damaged)
        yield Case(KIND, f"category given {what}", (*HERE, f"dataset.categories=[{NAMES[what]}]"), "refused")
        yield Case(KIND, f"word {what}", (NAMES[what],), "refused")
        yield Case(KIND, f"root {what}", (*HERE, f"dataset.root={NAMES[what]}"), "refused")
    yield Case(KIND, "two that differ in case", HERE, "either", prepare=_category("Bolt"))
    for encoding in ("ascii", "latin-1", "cp1252"):
        environment = (("PYTHONIOENCODING", encoding), ("LC_ALL", "C"), ("PYTHONUTF8", "0"))
        yield Case(KIND, f"stdout in {encoding}", RUN, "done", environment=environment, prepare=None)
    yield Case(KIND, "log is a link out", (*RUN, "force=true"), "either", prepare=_log_elsewhere)


def _category(name: str) -> Prepare:
    return lambda world: (
        (world.own / "bolt").rename(world.own / name)
        if name != "Bolt"
        else shutil.copytree(world.own / "bolt", world.own / name)
    )


def _defect(name: str) -> Prepare:
    def rename(world: World) -> None:
        for place in ("test", "ground_truth"):
            (world.own / "bolt" / place / "scratch").rename(world.own / "bolt" / place / name)

    return rename


def _image(name: str) -> Prepare:
    def rename(world: World) -> None:
        stem = os.fsdecode(os.fsencode(name)[:240]) if len(os.fsencode(name)) > 240 else name
        place = world.own / "bolt"
        (place / "test" / "scratch" / "000.png").rename(place / "test" / "scratch" / f"{stem}.png")
        (place / "ground_truth" / "scratch" / "000_mask.png").rename(
            place / "ground_truth" / "scratch" / f"{stem}_mask.png"
        )

    return rename


def _all_three(name: str) -> Prepare:
    def rename(world: World) -> None:
        _image(name)(world)
        _defect(name)(world)
        _category(name)(world)

    return rename


def _damaged(name: str) -> Prepare:
    def damage(world: World) -> None:
        place = world.own / "bolt" / "train" / "good"
        (place / "000.png").unlink()
        (place / f"{name}.png").write_bytes(b"nothing")

    return damage


def _log_elsewhere(world: World) -> None:
    log = world.folder / FINISHED / "run.log"
    log.unlink()
    log.symlink_to(world.folder / "elsewhere.log")
