"""``ader data``: datasets on disk: checked, prepared, and decoded images removed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ader.system.errors import UserError, suggest

USAGE = """\
ader data check dataset=NAME [key=value ...]
ader data prepare dataset=NAME [source=ARCHIVE_OR_FOLDER] [key=value ...]
ader data clear [paths.cache=DIR]

check decodes every image and mask of a dataset and says what is wrong with it: numbers of images other than
published, missing, unreadable and extra files, masks of another size than their image or that mark
nothing or a normal image, defects without mask, test images that training has too (the same pixels,
whatever the file is called), equal images with different labels or categories. Noted, but not wrong:
other equal images, and defects that vanish at the image size.

  dataset.root=DIR  dataset.categories=[a,b]  dataset.check_counts=false  paths.data=DIR
  image_size=256                at which defects may vanish
  report=FILE.csv               every finding (columns verdict, check, path, detail); else in paths.cache
  workers=N                     threads
  --config-dir DIR              a folder with options of your own
  --cfg                         print the composed configuration

prepare puts a dataset where it is read from: it verifies and unpacks archives (source: one, or a folder
of them), downloads those that have a public address and checksum, converts what has to be converted
(COCO-AD, CIFAR; VisA and BMAD from another folder), and compares the numbers of images with the
published ones. Without a source it takes what lies at dataset.root, or says where to get the dataset.

clear deletes the images that runs have kept decoded (dataset.cache); they are made again when needed.

exit status: 0 done, and nothing is wrong (notes are allowed); 2 something is
"""

#: What follows ``ader data``: module and function, called with the words after it; returns the exit status.
ACTIONS = {"check": "data_check:check", "prepare": "data_prepare:prepare", "clear": "data_prepare:clear"}


def main(arguments: Sequence[str]) -> int:
    """Runs one of the data commands on the words after it."""
    name = arguments[0] if arguments else ""
    if name not in ACTIONS:
        raise UserError(f"{' '.join(['ader data', *arguments[:1]])}: {suggest(name, ACTIONS)} (ader data --help)")
    module, _, function = ACTIONS[name].partition(":")
    return int(getattr(importlib.import_module(f"ader.commands.{module}"), function)(arguments[1:]))
