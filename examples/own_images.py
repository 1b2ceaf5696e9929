"""Your own images: a folder in the layout of MVTec AD, and the table of a method on it.

    python examples/own_images.py [FOLDER]

The images are made up here: two categories, defects of two kinds, with masks. With a folder of your own, all it takes
is the command line that this prints. Random weights make it run without a download: leave that word out.
"""

import shlex
import sys
import tempfile
from pathlib import Path

from ader.__main__ import main as ader
from ader.testing.toy import write_mvtec


def main(folder: Path) -> int:
    """Writes images below ``folder``, runs PatchCore on them and prints its table; returns the exit status."""
    images = write_mvtec(folder / "images", categories=("bottle", "cable"), train=12, good=6, bad=6, size=64)
    words = [
        "dataset=folder",
        f"dataset.root={images}",
        "method=patchcore",
        "method.backbone.name=resnet18",
        "method.backbone.pretrained=false",
        "image_size=64",
        f"paths.results={folder / 'results'}",
    ]
    print("ader", shlex.join(words))
    return ader(words)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())))
