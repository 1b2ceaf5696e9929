"""CIFAR-100: PNG files as prepared from the archive, and the archive's pickles as Python 2 wrote them."""

from __future__ import annotations

from pathlib import Path

from tests.layouts.cifar10 import Batch, batch, planes, python2, write_images

#: The fine labels, in the order of their numbers.
LIST = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(LIST.split())
FOLDER = "cifar-100-python"


def write(root: Path) -> Path:
    """Writes the prepared dataset into ``root``; returns what ``dataset.root`` is to be."""
    return write_images(root, batches(), CLASSES, ("test",))


def batches() -> dict[str, Batch]:
    return {"train": batch(20, 200, 100), "test": batch(21, 100, 100)}


def write_archive(root: Path) -> Path:
    """The unpacked archive; ``train`` and ``test`` are files."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches().items():
        content = {
            "filenames": [f"bos_taurus_s_{number:06}.png" for number in range(len(labels))],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": labels,
            "coarse_labels": [label % 20 for label in labels],
            "data": planes(pixels),
        }
        (folder / name).write_bytes(python2(content))
    (folder / "meta").write_bytes(python2({"fine_label_names": list(CLASSES)}))
    (folder / "file.txt~").touch()
    return root
