"""``ader data``: datasets on disk: checked, prepared, and decoded images removed."""

from __future__ import annotations

import importlib
from dataclasses import replace

from ader.commands._request import Request
from ader.system.errors import UserError, suggest

SUMMARY = """\
ader data check dataset=NAME   everything that is wrong with a dataset's files
ader data prepare dataset=NAME unpacks, downloads or converts a dataset, or says where to get it
"""

USAGE = """\
ader data check dataset=NAME [key=value ...]
ader data prepare dataset=NAME [source=ARCHIVE_OR_FOLDER] [key=value ...]
ader data clear [paths.cache=DIR]

check decodes every image and mask of a dataset and says what is wrong with it: numbers of images other than
published, missing, unreadable and extra files, masks of another size than their image or that mark
nothing or a normal image, defects without mask, test images that training has too (the same pixels,
whatever the file is called), equal images with different labels or categories. Noted, but not wrong:
other equal images, and defects that vanish at the image size.

  dataset.root=DIR  'dataset.categories=[a,b]'  dataset.check_counts=false  paths.data=DIR
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

#: What follows ``ader data``: module and function, called with the request; returns the exit status.
ACTIONS = {"check": "check:check", "prepare": "prepare:prepare", "clear": "prepare:clear"}


def main(request: Request) -> int:
    """Runs one of the data commands on the words after it."""
    name = request.words[0] if request.words else ""
    if name not in ACTIONS:
        raise UserError(
            f"{' '.join([request.command, *request.words[:1]])}: {suggest(name, ACTIONS)} (ader data --help)"
        )
    words = list(request.words[1:])
    if name != "clear" and words and "=" not in words[0]:  # the dataset's name alone
        words[0] = f"dataset={words[0]}"
    module, _, function = ACTIONS[name].partition(":")
    action = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return int(action(replace(request, command=f"{request.command} {name}", words=tuple(words))))
