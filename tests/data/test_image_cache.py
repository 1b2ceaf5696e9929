"""The cache of decoded images: the very pixels of the uncached path, whatever happens while it is filled."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image

from ader.data import image_cache as module
from ader.data.image import load_image
from ader.data.image_cache import CachedImages, cache_images, free_bytes, needed_bytes, open_images, remove, total_bytes
from ader.system.errors import UserError

SIZE = 16
ROW = 3 * SIZE * SIZE
COUNT = 9

Files = dict[str, Path]


def save(path: Path, seed: int, size: tuple[int, int] = (23, 31)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def listed(folder: Path) -> Files:
    return {f"set/{path.name}": path for path in sorted(folder.iterdir())}


@pytest.fixture
def files(tmp_path) -> Files:
    for seed in range(COUNT):
        save(tmp_path / f"files/{seed:03}.png", seed)
    return listed(tmp_path / "files")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that are decoded, in any order."""
    seen: list[Path] = []

    def spy(path: Path, size: int, content: bytes, bits: int | None) -> np.ndarray:
        seen.append(path)
        return load_image(path, size, content, bits)

    monkeypatch.setattr(module, "load_image", spy)
    return seen


@pytest.fixture
def at_once(monkeypatch) -> None:
    """Every row is listed as soon as it is there."""
    monkeypatch.setattr(module, "CHUNK", 1)


def fill(files: Files, cache: Path, size: int = SIZE, **options) -> CachedImages:
    return cache_images(files, size, cache, **{"workers": 2, **options})


def folder_of(cache: Path, size: int = SIZE) -> Path:
    return cache / "images" / f"{size}-bilinear-{module.VERSION}-pillow-{PIL.__version__}"


def rows(cache: Path) -> int:
    """How many rows are listed; all are there and none twice."""
    digests = module._split((folder_of(cache) / "rows.sha256").read_bytes())
    assert (folder_of(cache) / "rows.u8").stat().st_size == len(digests) * ROW
    assert len(set(digests)) == len(digests)
    return len(digests)


def check_pixels(images: CachedImages, files: Files) -> None:
    assert list(images.names) == list(files)
    for name, path in files.items():
        assert (images.read(name) == load_image(path, images.size)).all()


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def stop_after(count: int) -> Callable[[], None]:
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == count:
            raise KeyboardInterrupt

    return check


# --- pixels


def test_pixels_of_every_kind_of_file(tmp_path, cache):
    rng, folder = np.random.default_rng(0), tmp_path / "kinds"
    folder.mkdir()
    color = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    color.save(folder / "rgb.png")
    color.convert("L").save(folder / "gray.png")
    color.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png", transparency=3)
    color.convert("CMYK").save(folder / "cmyk.jpg")
    color.save(folder / "Größe 1 ß.bmp")
    color.resize((SIZE, SIZE)).save(folder / "画像.tif")
    Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)).save(folder / "16 bit.png")
    files = listed(folder)
    images = fill(files, cache)
    check_pixels(images, files)
    with Image.open(folder / "rgb.png") as image:
        expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (images.read("set/rgb.png") == expected).all()
    check_pixels(fill(files, cache), files)


def test_take_keeps_the_order_and_repeats(files, cache):
    images, names = fill(files, cache), list(files)
    chosen = [names[5], names[0], names[5], names[8]]
    batch = images.take(chosen)
    assert batch.shape == (4, 3, SIZE, SIZE)
    assert batch.dtype == np.uint8
    assert (batch == np.stack([load_image(files[name], SIZE) for name in chosen])).all()
    assert images.take([]).shape == (0, 3, SIZE, SIZE)


def test_copies_are_ones_own(files, cache):
    images, name = fill(files, cache), "set/003.png"
    for copy in (images.read(name), images.take([name])):
        copy[:] = 7
    assert (images.read(name) == load_image(files[name], SIZE)).all()


def test_what_it_holds(files, cache):
    images = fill(files, cache)
    assert len(images) == COUNT
    assert "set/000.png" in images
    assert "000.png" not in images
    with pytest.raises(KeyError):
        images.read("000.png")
    assert len(fill({}, cache)) == 0


def test_each_size_has_its_own_folder(files, cache):
    small, large = fill(files, cache), fill(files, cache, size=24)
    assert small.folder != large.folder
    check_pixels(small, files)
    check_pixels(large, files)


def test_pickled_before_and_after_use(files, cache):
    images = fill(files, cache)
    for _ in range(2):
        check_pixels(pickle.loads(pickle.dumps(images)), files)
        images.read("set/000.png")


def test_many_images_are_cheap_to_pickle(tmp_path):
    names = [f"pcb4/test/anomaly_of_some_kind/{number:06}.png" for number in range(120_000)]
    images = CachedImages(tmp_path, SIZE, {name: row for row, name in enumerate(names)}, b"")
    together = len(pickle.dumps((names, images))) - len(pickle.dumps(names))
    assert len(pickle.dumps(images)) < 8e6
    assert together < 1.2e6  # as the loader pickles it, beside samples that hold the same names


# --- what is decoded and read again


def test_a_second_call_only_looks_at_the_files(files, cache, monkeypatch):
    fill(files, cache)
    expected = {name: load_image(path, SIZE) for name, path in files.items()}
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        assert path not in files.values()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    for images in (fill(files, cache), open_images(files, SIZE, cache)):
        assert images is not None
        assert all((images.read(name) == pixels).all() for name, pixels in expected.items())


def test_an_edit_that_keeps_size_and_time_is_seen(files, cache, tmp_path):
    fill(files, cache)
    path = next(iter(files.values()))
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_images(files, SIZE, cache) is None


def test_progress_counts_files_and_is_silent_when_all_are_known(files, cache):
    steps = []
    fill(files, cache, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, COUNT) for done in range(1, COUNT + 1)]
    fill(files, cache, progress=lambda done, total: steps.append((done, total)))
    assert len(steps) == COUNT


def test_a_changed_file_gets_its_new_pixels(files, cache, decoded):
    fill(files, cache)
    path = files["set/004.png"]
    stat = path.stat()
    Image.new("RGB", (31, 23), (1, 2, 3)).save(path)
    path.write_bytes(path.read_bytes().ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert path.stat().st_size == stat.st_size
    assert open_images(files, SIZE, cache) is None
    images = fill(files, cache)
    assert len(decoded) == COUNT + 1
    assert (images.read("set/004.png") == np.array([1, 2, 3], np.uint8)[:, None, None]).all()
    check_pixels(images, files)


def test_the_same_content_is_one_row(files, cache, tmp_path, decoded):
    fill(files, cache)
    copies = listed(shutil.copytree(tmp_path / "files", tmp_path / "copies"))
    check_pixels(fill(copies, cache), copies)
    both = {**{f"again/{name}": path for name, path in reversed(files.items())}, **copies}
    check_pixels(fill(both, cache), both)
    assert len(decoded) == COUNT
    assert rows(cache) == COUNT


def test_equal_files_of_one_call_are_one_row(cache, tmp_path):
    for number in range(6):
        save(tmp_path / f"files/{number}.png", seed=0)
    files = listed(tmp_path / "files")
    check_pixels(fill(files, cache, workers=4), files)
    assert rows(cache) == 1


@pytest.mark.parametrize("missing", [False, True])
def test_bad_files_are_left_out_until_they_are_fixed(files, cache, decoded, missing):
    whole = {name: files[name].read_bytes() for name in ("set/001.png", "set/002.png", "set/005.png")}
    files["set/001.png"].write_bytes(whole["set/001.png"][:200])
    files["set/002.png"].unlink() if missing else files["set/002.png"].write_text("no image")
    files["set/005.png"].write_bytes(b"")
    good = {name: path for name, path in files.items() if name not in whole}
    for _ in range(2):
        check_pixels(fill(files, cache), good)
        assert open_images(files, SIZE, cache) is None
    for name, content in whole.items():
        files[name].write_bytes(content)
    decoded.clear()
    check_pixels(fill(files, cache), files)
    assert sorted(decoded) == [files[name] for name in whole]


def test_a_file_that_changes_while_it_is_read(files, cache, monkeypatch):
    path = files["set/003.png"]
    old = load_image(path, SIZE)

    def slow(read: Path, size: int, content: bytes, bits: int | None) -> np.ndarray:
        if read == path:
            save(path, seed=99)
        return load_image(read, size, content, bits)

    monkeypatch.setattr(module, "load_image", slow)
    images = fill(files, cache)
    assert (images.read("set/003.png") == old).all()  # the pixels of the bytes that were hashed
    monkeypatch.setattr(module, "load_image", load_image)
    assert open_images(files, SIZE, cache) is None
    check_pixels(fill(files, cache), files)


def test_a_file_that_changes_before_it_is_read_and_is_then_restored(files, cache, monkeypatch):
    monkeypatch.setattr(module, "POLL", 0.01)
    path = files["set/008.png"]
    stat, content = path.stat(), path.read_bytes()
    save(path, seed=99)
    other = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with module._lock(folder_of(cache)) as lock:
        # while it waits for the lock, after its first look at the files
        images = fill(files, cache, waiting=lambda: (path.write_bytes(other), lock.close()))
    check_pixels(images, files)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_pixels(fill(files, cache), files)


# --- ends that come early


def test_an_interrupt_stops_at_once(files, cache, monkeypatch):
    """Ctrl-C while files wait must not decode them all first."""
    release, started = threading.Event(), []

    def slow(path: Path, size: int, content: bytes, bits: int | None) -> np.ndarray:
        started.append(path)
        if len(started) > 1:
            release.wait(10)
        return load_image(path, size, content, bits)

    def interrupt() -> None:
        threading.Timer(0.05, release.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_image", slow)
    with pytest.raises(KeyboardInterrupt):
        fill(files, cache, workers=1, check=interrupt)
    assert len(started) <= 3


def test_an_interrupt_keeps_what_was_done(files, cache, decoded):
    with pytest.raises(KeyboardInterrupt):
        fill(files, cache, check=stop_after(5))
    assert rows(cache) == 5
    assert open_images(files, SIZE, cache) is None
    decoded.clear()
    check_pixels(fill(files, cache), files)
    assert sorted(decoded) == sorted(files.values())[5:]


@pytest.mark.parametrize("call", range(1, 40, 3))
@pytest.mark.parametrize("after", [False, True])
def test_a_signal_at_any_write(files, cache, monkeypatch, at_once, call, after):
    """Signals raise wherever they arrive: before a write, in the middle of it, or after it."""
    calls = []

    def stopping(original: Callable[..., int | None]) -> Callable[..., int | None]:
        def stop(file, content=b"", *place) -> int | None:
            calls.append(None)
            if len(calls) == call and not after:
                if content:
                    original(file, content[: len(content) // 2], *place)
                raise KeyboardInterrupt
            result = original(file, content, *place) if place else original(file)
            if len(calls) == call:
                raise KeyboardInterrupt
            return result

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", stopping(os.pwrite))
        patch.setattr(module.os, "fsync", stopping(os.fsync))
        with pytest.raises(KeyboardInterrupt):
            fill(files, cache)
    images = fill(files, cache)
    check_pixels(images, files)
    assert rows(cache) == COUNT


PROGRAM = """
import sys, time
from pathlib import Path
from ader.data import image_cache as module

folder, cache, size, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
module.CHUNK, module.SECONDS, module.POLL = 3 * 3 * size * size, 1e9, 0.05
files = {f"set/{path.name}": path for path in sorted(folder.iterdir())}

def progress(done, total):
    assert stop > 0, "files are read again"
    if done == stop:
        print("reached", flush=True)
        sys.stdin.readline()

images = module.cache_images(
    files, size, cache, workers=2, progress=progress, waiting=lambda: print("waiting", flush=True)
)
print(images.take(list(files)).tobytes().hex())
"""


@pytest.fixture
def start(tmp_path, cache):
    """Starts a process that fills the cache and stops for a line of input after so many files."""
    processes = []

    def start(stop: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "files"), str(cache), str(SIZE), str(stop)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("torn", [0, 100])
def test_killed(files, cache, start, decoded, torn):
    process = start(5)
    assert process.stdout.readline() == "reached\n"
    process.kill()
    process.wait()
    pixels, digests = folder_of(cache) / "rows.u8", folder_of(cache) / "rows.sha256"
    assert pixels.stat().st_size == 5 * ROW
    assert digests.stat().st_size == 3 * 32
    for path in (pixels, digests):  # a write that was cut short
        path.write_bytes(path.read_bytes() + b"x" * (torn // 10 if path == digests else torn))
    fill({"none": cache / "none"}, cache)
    assert rows(cache) == 3
    check_pixels(fill(files, cache), files)
    assert sorted(decoded) == sorted(files.values())[3:]
    assert rows(cache) == COUNT


def test_two_processes(files, cache, start):
    first = start(5)
    assert first.stdout.readline() == "reached\n"
    second = start(0)
    assert second.stdout.readline() == "waiting\n"
    results = [first.communicate("go on\n")[0], second.communicate()[0]]
    expected = np.stack([load_image(path, SIZE) for path in files.values()]).tobytes().hex()
    assert results == [expected + "\n"] * 2
    assert rows(cache) == COUNT


def test_waiting_can_be_interrupted(files, cache, monkeypatch):
    monkeypatch.setattr(module, "POLL", 0.01)
    told = []
    with module._lock(folder_of(cache)), pytest.raises(KeyboardInterrupt):
        fill(files, cache, check=stop_after(3), waiting=lambda: told.append(None))
    assert len(told) == 1
    check_pixels(fill(files, cache, waiting=lambda: told.append(None)), files)
    assert len(told) == 1


def test_the_lock_of_a_removed_folder_is_not_taken(files, cache, monkeypatch):
    """Removal may come between opening the lock and getting it: two would fill the next folder at once."""
    monkeypatch.setattr(module, "POLL", 0)
    original, removed = fcntl.flock, []

    def flock(lock, operation) -> None:
        original(lock, operation)
        if not removed:
            removed.append(folder_of(cache).rename(cache / "removed"))

    monkeypatch.setattr(fcntl, "flock", flock)
    check_pixels(fill(files, cache), files)
    assert rows(cache) == COUNT
    assert {path.name for path in (cache / "removed").iterdir()} == {".lock"}


# --- damage


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: bytes(len(content)), lambda _: b""])
def test_a_damaged_list_of_known_files(files, cache, decoded, damage):
    fill(files, cache)
    known = folder_of(cache) / "known.sha256"
    known.write_bytes(damage(known.read_bytes()))
    assert open_images(files, SIZE, cache) is None
    check_pixels(fill(files, cache), files)
    assert open_images(files, SIZE, cache) is not None
    assert len(decoded) == COUNT  # the rows were there


def test_parts_and_unions_of_what_is_known_are_known(files, cache, decoded, tmp_path):
    """Other selections and settings of a dataset read no file again."""
    names = sorted(files)
    first, second = ({name: files[name] for name in some} for some in (names[:5], names[3:]))
    fill(first, cache)
    fill(second, cache)
    decoded.clear()
    for some in (names[::2], names, names[::-1]):
        images = open_images({name: files[name] for name in some}, SIZE, cache)
        assert images is not None
        assert list(images.names) == some
    assert open_images({**files, "none": tmp_path / "none"}, SIZE, cache) is None
    assert not decoded


def test_known_files_are_not_read_again(files, cache, monkeypatch):
    fill(files, cache)
    more = {**files, "other": save(cache / "other.png", seed=99)}
    read, original = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or original(self))
    check_pixels(fill(more, cache), more)
    assert [name for name in read if name.endswith(".png")] == ["other.png"]


@pytest.mark.parametrize("kept", [0, 1, 4 * ROW, 4 * ROW + 1, COUNT * ROW - 1])
def test_lost_rows_are_made_again(files, cache, decoded, tmp_path, kept):
    fill(files, cache)
    os.truncate(folder_of(cache) / "rows.u8", kept)
    assert open_images(files, SIZE, cache) is None
    others = {f"other/{seed}": save(tmp_path / f"others/{seed}.png", seed) for seed in range(50, 56)}

    def progress(done: int, total: int) -> None:  # other pixels take the place of what was lost
        assert len(module._listed(folder_of(cache), SIZE)) == kept // ROW

    check_pixels(fill(others, cache, progress=progress), others)
    assert open_images(files, SIZE, cache) is None
    decoded.clear()
    check_pixels(fill(files, cache), files)
    assert len(decoded) == COUNT - kept // ROW
    assert rows(cache) == COUNT + 6


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"?" * 32 * COUNT)])
def test_a_damaged_list_of_rows(files, cache, damage):
    fill(files, cache)
    damage(folder_of(cache) / "rows.sha256")
    assert open_images(files, SIZE, cache) is None
    check_pixels(fill(files, cache), files)


def test_rows_lost_while_in_use(files, cache):
    images = fill(files, cache)
    images.read("set/008.png")
    os.truncate(folder_of(cache) / "rows.u8", 8 * ROW + 5)
    assert (images.read("set/007.png") == load_image(files["set/007.png"], SIZE)).all()
    for reader in (images, pickle.loads(pickle.dumps(images))):
        with pytest.raises(UserError, match="removed or damaged while in use"):
            reader.read("set/008.png")


# --- places that cannot be written


def test_a_complete_cache_needs_no_writing(files, cache, monkeypatch):
    fill(files, cache)
    (folder_of(cache) / ".lock").unlink()
    before = snapshot(cache)
    folder_of(cache).chmod(0o555)
    monkeypatch.setattr(module, "_lock", None)  # root may write anyway
    check_pixels(fill(files, cache), files)
    folder_of(cache).chmod(0o755)
    assert snapshot(cache) == before


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(files, cache, monkeypatch, code):
    def mkdir(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError) as caught:
        fill(files, cache)
    assert str(caught.value) == (
        f"image cache {folder_of(cache)} cannot be written ({os.strerror(code)}; {COUNT * (ROW + 96):,} bytes are "
        "needed): give paths.cache=FOLDER or dataset.cache=off"
    )


def test_a_file_in_the_cache_folders_place(files, cache):
    cache.write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* paths\.cache=FOLDER"):
        fill(files, cache)


def test_a_full_disk(files, cache, monkeypatch, decoded, at_once):
    write = os.pwrite

    def full(file: int, content: bytes, place: int) -> int:
        room = 4 * ROW + 100 - place
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:room], place)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        with pytest.raises(UserError) as caught:
            fill(files, cache)
    assert f"{folder_of(cache)} cannot be written (No space left on device; 7,776 bytes are needed)" in str(
        caught.value
    )
    assert "give paths.cache=FOLDER or dataset.cache=off" in str(caught.value)
    assert rows(cache) == 4
    decoded.clear()
    check_pixels(fill(files, cache), files)
    assert len(decoded) == COUNT - 4


@pytest.mark.parametrize(
    ("chunk", "seconds", "unlisted"), [(ROW, 1e9, 0), (1e9, 0, 0), (2 * ROW, 1e9, 1), (1e9, 1e9, 5)]
)
def test_rows_are_listed_now_and_then(files, cache, monkeypatch, chunk, seconds, unlisted):
    def progress(done: int, total: int) -> None:
        if done == 5:
            assert (folder_of(cache) / "rows.sha256").stat().st_size == (5 - unlisted) * 32

    monkeypatch.setattr(module, "CHUNK", int(chunk))
    monkeypatch.setattr(module, "SECONDS", seconds)
    fill(files, cache, progress=progress)
    assert rows(cache) == COUNT


def test_a_disk_that_loses_what_was_written(files, cache, monkeypatch):
    """After an fsync that failed, the next one succeeds though the pixels are lost: they must not be listed."""
    original, calls = os.fsync, []
    monkeypatch.setattr(module, "CHUNK", 5 * ROW)

    def fsync(file) -> None:
        calls.append(None)
        if len(calls) == 2:  # the first one is of the empty list
            file.truncate(3 * ROW)
            file.truncate(5 * ROW)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fsync)
        with pytest.raises(UserError, match="Input/output error"):
            fill(files, cache)
    assert rows(cache) == 0
    check_pixels(fill(files, cache), files)


def test_a_callbacks_own_error_is_not_the_disks(files, cache):
    def progress(done: int, total: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fill(files, cache, progress=progress)


# --- sizes and removal


def test_bytes(files, cache, monkeypatch):
    assert total_bytes(cache) == 0
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: {cache.parent: SimpleNamespace(free=5)}[path])
    assert free_bytes(cache / "not" / "there") == 5
    fill(files, cache)
    assert needed_bytes(COUNT, SIZE) == COUNT * (ROW + 3 * 32)
    assert total_bytes(cache) == needed_bytes(COUNT, SIZE)


def test_remove(files, cache):
    assert remove(cache) == 0
    fill(files, cache)
    fill(files, cache, size=24)
    (cache / "checked").mkdir()
    expected = total_bytes(cache)
    assert remove(cache) == expected
    assert [path.name for path in cache.iterdir()] == ["checked"]
    check_pixels(fill(files, cache), files)


def test_remove_after_a_removal_that_was_killed(files, cache):
    fill(files, cache)
    folder_of(cache).rename(cache / "images" / ".removed-x")
    fill(files, cache)
    remove(cache)
    assert not (cache / "images").exists()


def test_remove_refuses_while_images_are_added(files, cache):
    def progress(done: int, total: int) -> None:
        if done == 5:
            with pytest.raises(UserError, match="another process is adding images to"):
                remove(cache)

    fill(files, cache, size=24)
    check_pixels(fill(files, cache, progress=progress), files)
    assert open_images(files, 24, cache) is not None


def test_removed_while_in_use(files, cache):
    images = fill(files, cache)
    images.read("set/000.png")
    later = pickle.dumps(images)  # for a worker that starts later
    remove(cache)
    check_pixels(images, files)  # an open file stays
    with pytest.raises(UserError, match="removed or damaged while in use"):
        pickle.loads(later).read("set/000.png")
    fill(dict(reversed(files.items())), cache)
    with pytest.raises(UserError, match="removed or damaged while in use"):
        pickle.loads(later).read("set/000.png")
    remove(cache)
    fill(files, cache)
    check_pixels(pickle.loads(later), files)


def test_rows_are_content_addressed(files, cache):
    fill(files, cache, workers=0)
    digests = (folder_of(cache) / "rows.sha256").read_bytes()
    pixels = np.fromfile(folder_of(cache) / "rows.u8", np.uint8).reshape(-1, 3, SIZE, SIZE)
    for row, path in enumerate(files.values()):
        assert digests[32 * row : 32 * row + 32] == hashlib.sha256(path.read_bytes()).digest()
        assert (pixels[row] == load_image(path, SIZE)).all()
