"""When decoded images are kept, and how that is said; ``ader.data.image_cache`` does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ader.config.schema import DatasetOptions
from ader.data.image_cache import CachedImages, cache_images, free_bytes, needed_bytes, open_images
from ader.data.index import Index
from ader.system.console import Console
from ader.system.errors import UserError

#: Bytes of the disk that an automatic cache leaves free.
SPARE = 2 << 30


@dataclass(frozen=True)
class ImageKeeper:
    """Keeps the images of an index, if that is wanted.

    Attributes:
        index: all samples.
        image_size: pixels; images are resized to a square.
        options: ``cache`` and ``cache_above``.
        folder: for what can be made again.
    """

    index: Index
    image_size: int
    options: DatasetOptions
    folder: Path

    def decode_once(self, workers: int, console: Console, check: Callable[[], None]) -> CachedImages | None:
        """All images, decoded now as far as no run did before; None where they are not to be kept.

        Files that cannot be decoded are left out: the check of files names them.

        Args:
            workers: threads.
            console: for progress.
            check: called between images; raises where the run is to end.

        Raises:
            UserError: the cache cannot be written, and was asked for (``on``).
        """
        found = self.decoded_before()
        if found is not None or not self._wanted(console):
            return found
        files = self._files()
        try:
            with console.track("decode images", len(files), "images") as track:
                return cache_images(
                    files,
                    self.image_size,
                    self.folder,
                    workers=workers,
                    bits=self.index.bits,
                    progress=lambda done, total: track.advance(),
                    check=check,
                    waiting=lambda: console.say("another run is adding images to the cache: waiting for it"),
                )
        except UserError as error:
            if self.options.cache == "on":
                raise
            console.say(f"no cache {error}: every epoch decodes its images")
            return None

    def decoded_before(self) -> CachedImages | None:
        """All images, if they lie in the cache and may be used."""
        if self.options.cache == "off":
            return None
        return open_images(self._files(), self.image_size, self.folder, bits=self.index.bits)

    def _files(self) -> dict[str, Path]:
        return {sample.image: self.index.path(sample.image) for sample in self.index}

    def _wanted(self, console: Console) -> bool:
        """Whether decoded images are to be kept."""
        count = len(self.index)
        if self.options.cache != "auto" or count < self.options.cache_above:
            return self.options.cache == "on"
        try:
            needed, free = needed_bytes(count, self.image_size), free_bytes(self.folder)
        except OSError as error:
            console.say(f"no cache {self.folder} cannot be used ({error.strerror}): every epoch decodes its images")
            return False
        if needed + SPARE <= free:
            return True
        console.say(
            f"no cache {needed / 2**30:.1f} GiB of decoded images do not fit into {self.folder} "
            f"({free / 2**30:.1f} GiB free): every epoch decodes them; paths.cache=FOLDER is for another place"
        )
        return False
