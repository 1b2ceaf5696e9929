"""When a run keeps decoded images, and how it says so; ``ader.data.image_cache`` does the work."""

from __future__ import annotations

from pathlib import Path

from ader.data.image_cache import CachedImages, cache_images, free_bytes, needed_bytes, open_images
from ader.runs.job import Job

#: Bytes of the disk that an automatic cache leaves free.
SPARE = 2 << 30


def decode_once(job: Job, folder: Path) -> CachedImages | None:
    """All images of a run, decoded now as far as no run did before; None where they are not to be kept.

    Files that cannot be decoded are left out: the check of files names them.

    Args:
        job: the run.
        folder: for what can be made again.

    Raises:
        UserError: the cache cannot be written.
    """
    found = decoded_before(job, folder)
    return _decode(job, folder) if found is None and _wanted(job, folder) else found


def decoded_before(job: Job, folder: Path) -> CachedImages | None:
    """All images of a run, if they lie in the cache and may be used."""
    return None if job.caching.cache == "off" else open_images(_files(job), job.options.image_size, folder)


def _files(job: Job) -> dict[str, Path]:
    return {sample.image: job.index.path(sample.image) for sample in job.index}


def _wanted(job: Job, folder: Path) -> bool:
    """Whether decoded images are to be kept."""
    count = len(job.index)
    if job.caching.cache != "auto" or count < job.caching.cache_above:
        return job.caching.cache == "on"
    needed, free = needed_bytes(count, job.options.image_size), free_bytes(folder)
    if needed + SPARE <= free:
        return True
    job.console.say(
        f"no cache {needed / 2**30:.1f} GiB of decoded images do not fit into {folder} ({free / 2**30:.1f} GiB free): "
        "every epoch decodes them; paths.cache=FOLDER is for another place"
    )
    return False


def _decode(job: Job, folder: Path) -> CachedImages:
    files = _files(job)
    with job.console.track("decode images", len(files), "images") as track:
        return cache_images(
            files,
            job.options.image_size,
            folder,
            workers=job.trainer.decoders(),
            progress=lambda done, total: track.advance(),
            check=job.interrupt.check,
            waiting=lambda: job.console.say("another run is adding images to the cache: waiting for it"),
        )
