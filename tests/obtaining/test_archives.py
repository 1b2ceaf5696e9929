"""Archives are strangers' files and the network breaks off: whole and verified, or not at all, and nothing outside."""

from __future__ import annotations

import bz2
import errno
import fcntl
import gzip
import hashlib
import importlib
import io
import lzma
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from ader.obtaining import checksum, download, unpack, verify
from ader.obtaining.disk import alone
from ader.obtaining.members import Limits
from ader.system.errors import UserError
from ader.system.interrupt import Stopped

# the package's functions bear the names of these modules
unpacking = importlib.import_module("ader.obtaining.unpack")
downloading = importlib.import_module("ader.obtaining.download")
disk = importlib.import_module("ader.obtaining.disk")

NOISE = random.Random(0).randbytes(2_500_000)  # more than two blocks, and nothing compresses it
FILES = {
    "bottle/train/good/000.png": NOISE,
    "bottle/test/schöner Fehler/Äpfel 1.png": b"defect",
    "bottle/empty.txt": b"",
    "readme.txt": b"hello\n" * 1000,
}
PACKED = {
    ".tar": lambda data: data,
    ".tar.gz": gzip.compress,
    ".tar.xz": lzma.compress,
    ".tar.bz2": bz2.compress,
}
FORMATS = (*PACKED, ".zip")


def member(name, content=None, **attributes):
    """A tar's; a file if it has content, else a folder."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode = 0o755 if content is None else 0o644
    info.size = len(content or b"")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content or b""


def symlink(name, target):
    return member(name, b"", type=tarfile.SYMTYPE, linkname=target)


def hardlink(name, target):
    return member(name, b"", type=tarfile.LNKTYPE, linkname=target)


def tar_bytes(*members, format=tarfile.PAX_FORMAT):
    """Of exactly these members, whatever they say."""
    stream = io.BytesIO()
    for info, content in members:
        stream.write(info.tobuf(format, "utf-8", "surrogateescape"))
        stream.write(content + bytes(-len(content) % 512))
    return stream.getvalue() + bytes(1024)


def zip_member(name, content=b"", kind=0, **attributes):
    """``attributes`` are what the directory says; those of the file itself are right."""
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # as it is; the constructor would tidy it
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (kind | 0o644) << 16
    return info, content, attributes


def zip_bytes(*members, order=1):
    """``order`` is -1 if the directory lists them from the last to the first."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of names that come twice
        for info, content, _ in members:
            archive.writestr(info, content)
        for written, (_, _, attributes) in zip(archive.filelist, members, strict=True):
            for key, value in attributes.items():
                setattr(written, key, value)
        archive.filelist[:] = archive.filelist[::order]
    return stream.getvalue()


def pack(kind, files):
    if kind == ".zip":
        return zip_bytes(*(zip_member(name, content) for name, content in files.items()))
    return PACKED[kind](tar_bytes(*(member(name, content) for name, content in files.items())))


def tree(folder):
    """Every path below with its content; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = "empty folder"
    return found


@contextmanager
def refused(folder, match):
    """The block raises one line, and changes nothing below ``folder``."""
    before = tree(folder)
    with pytest.raises(UserError, match=match) as caught:
        yield
    assert tree(folder) == before
    assert "\n" not in str(caught.value)


@pytest.fixture
def save(tmp_path):
    def write(data, name="archive"):
        file = tmp_path / name
        file.write_bytes(data)
        return file

    return write


# ---------------------------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_comes_out_as_it_went_in(tmp_path, save, kind):
    steps = []
    archive = save(pack(kind, FILES), "the name says.nothing")
    unpack(archive, tmp_path / "new" / "out", progress=lambda *step: steps.append(step))
    assert tree(tmp_path / "new" / "out") == FILES
    assert os.listdir(tmp_path / "new") == ["out"]
    size = archive.stat().st_size
    assert steps[-1] == (size, size)
    assert steps == sorted(steps)
    assert 0 < steps[0][0] < size
    assert {total for _, total in steps} == {size}


def test_progress_only_grows(tmp_path, save):
    """Also where a zip's directory, which is at its end and read first, has another order than its members."""
    members = [zip_member(name, NOISE[:1000]) for name in ("1", "2", "3")]
    archive, steps = save(zip_bytes(*members, zip_member("folder/"), order=-1)), []
    unpack(archive, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert tree(tmp_path / "out") == {**dict.fromkeys("123", NOISE[:1000]), "folder": "empty folder"}
    assert steps == sorted(steps)
    folder_first = save(zip_bytes(zip_member("folder/"), *members))
    unpack(folder_first, tmp_path / "out2", progress=lambda *step: steps.insert(0, step))
    assert steps[0][0] == folder_first.stat().st_size
    assert 0 <= min(steps)[0] < 100


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path, save, format_):
    files = {f"{'a' * 90}/{'ü' * 100}/{n}.png": bytes([n]) for n in range(3)}
    unpack(save(tar_bytes(*(member(*file) for file in files.items()), format=format_)), tmp_path / "out")
    assert tree(tmp_path / "out") == files


def test_an_archive_made_by_tar_itself(tmp_path):
    """With links, a folder of its own for ".", and whatever else the program writes."""
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "1.png").write_bytes(NOISE[:5000])
    os.link(source / "a" / "1.png", source / "a" / "2.png")
    (source / "a" / "3.png").symlink_to("1.png")
    subprocess.run(["tar", "-czf", tmp_path / "made.tgz", "-C", source, "."], check=True)
    unpack(tmp_path / "made.tgz", tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "a/1.png": NOISE[:5000],
        "a/2.png": NOISE[:5000],
        "a/3.png": ("link", "1.png"),
    }


def test_permissions_are_the_users_own(tmp_path, save):
    data = tar_bytes(member("locked/", mode=0), member("locked/tool", b"x", mode=0o6777), member("none", b"y", mode=0))
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "file").touch()
    unpack(save(data), tmp_path / "out")
    for path, like in (("", "usual"), ("locked", "usual"), ("locked/tool", "usual/file"), ("none", "usual/file")):
        assert (tmp_path / "out" / path).stat().st_mode == (tmp_path / like).stat().st_mode


@pytest.mark.parametrize("kind", FORMATS)
def test_clutter_stays_out(tmp_path, save, kind):
    clutter = ("__MACOSX/a/._1.png", "a/._1.png", "a/.DS_Store", "Thumbs.db", "._a")
    kept = {"a/1.png": b"1", "a/_2.png": b"2", "a/.hidden": b"3", "a/MACOSX.png": b"4"}
    unpack(save(pack(kind, {**dict.fromkeys(clutter, b"junk"), **kept})), tmp_path / "out")
    assert tree(tmp_path / "out") == kept


@pytest.mark.parametrize("kind", FORMATS)
def test_clutter_alone_is_nothing(tmp_path, save, kind):
    archive = save(pack(kind, {"__MACOSX/a": b"junk"}))
    with refused(tmp_path, "holds no files"):
        unpack(archive, tmp_path / "out")


def test_links_inside_work(tmp_path, save):
    data = tar_bytes(
        symlink("first.png", "a/b/1.png"),  # before what it points to
        member("a/b/1.png", b"one"),
        symlink("a/b/up.png", "../../a/./b/1.png"),
        symlink("a/folder", "b"),
        symlink("a/chain.png", "folder/up.png"),
        symlink("a/top", ".."),
        symlink("dangling", "not/there"),
        hardlink("same.png", "./a/b/1.png"),
    )
    unpack(save(data), tmp_path / "out")
    out = tmp_path / "out"
    for name in ("first.png", "a/b/up.png", "a/folder/1.png", "a/chain.png", "a/top/first.png", "same.png"):
        assert (out / name).read_bytes() == b"one"
    assert (out / "same.png").samefile(out / "a/b/1.png")
    assert os.readlink(out / "a/top") == ".."
    assert os.readlink(out / "dangling") == "not/there"


def deep(count):
    return "/".join(["d"] * count)


ONE = member("a/1.png", b"one")
HOSTILE_TARS = {
    "absolute": ((member("/evil", b"x"),), "'/evil', which leads out"),
    "parent": ((member("../evil", b"x"),), "'../evil', which leads out"),
    "parent of a folder": ((member("a/../../evil", b"x"),), "leads out"),
    "parent within": ((member("a/../evil", b"x"),), "leads out"),
    "folder outside": ((member("../evil"), ONE), "leads out"),
    "parent for Windows": ((member("a/.. /evil", b"x"),), "leads out"),
    "drive": ((member("C:/evil", b"x"),), "leads out"),
    "drive after a point": ((member("./C:evil", b"x"),), "leads out"),
    "backslash": ((member("..\\evil", b"x"),), "leads out"),
    "clutter outside": ((member("../._evil", b"x"), ONE), "leads out"),
    "no name": ((member("./", b"x", type=tarfile.CONTTYPE),), "a file without a name"),
    "absolute link": ((ONE, symlink("link", "/etc/passwd")), "a link to '/etc/passwd'"),
    "link out": ((ONE, symlink("a/link", "../../secret")), "a link to '../../secret'"),
    "link out of the top": ((ONE, symlink("link", "..")), "a link to '..'"),
    "link down and out": ((ONE, symlink("link", "a/../../secret")), "a link to 'a/../../secret'"),
    "links in a chain": (
        (ONE, symlink("here", "."), symlink("link", "here/here/../../secret")),
        "a link to 'here/here/../../secret'",
    ),
    "link to a drive": ((ONE, symlink("link", "C:/secret")), "a link to 'C:/secret'"),
    "link with a backslash": ((ONE, symlink("link", "..\\secret")), "a link to"),
    "through a link": ((symlink("here", "a"), member("here/evil", b"x")), "'here', twice"),
    "through a link, before it": ((member("here/evil", b"x"), symlink("here", "a")), "'here', twice"),
    "over a link": ((symlink("here", "a"), member("here", b"x")), "'here', twice"),
    "link twice": ((ONE, symlink("link", "a"), symlink("link", "a/1.png")), "'link', twice"),
    "hard link out": ((ONE, hardlink("link", "../secret")), "a link to '../secret'"),
    "hard link out, absolute": ((ONE, hardlink("link", "/etc/passwd")), "a link to '/etc/passwd'"),
    "hard link to a link": ((ONE, symlink("l", "a/1.png"), hardlink("h", "l")), "is no file before it"),
    "hard link to what follows": ((hardlink("h", "a/1.png"), ONE), "is no file before it"),
    "hard link over a file": ((ONE, member("b", b"b"), hardlink("b", "a/1.png")), "'b', twice"),
    "device": ((ONE, member("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "'null', a device"),
    "block device": ((ONE, member("disk", b"", type=tarfile.BLKTYPE)), "'disk', a device"),
    "pipe": ((ONE, member("pipe", b"", type=tarfile.FIFOTYPE)), "'pipe', a device"),
    "unknown type": ((ONE, member("odd", b"", type=b"W")), "'odd', a thing of type"),
    "file twice": ((ONE, member("a/1.png", b"two")), "'a/1.png', twice"),
    "file twice, spelt otherwise": ((ONE, member("./a//1.png", b"two")), "'a/1.png', twice"),
    "file and folder": ((ONE, member("a/1.png/2.png", b"two")), "'a/1.png', twice"),
    "folder and file": ((ONE, member("a", b"two")), "'a', twice"),
    "too deep": ((member(f"{deep(64)}/x", b"x"),), "more than 64 folders deep"),
    "endless name": ((ONE, member("n" * 300, b"x")), "cannot be written"),
    "size below zero": ((ONE, member("x", b"", size=-1024)), "damaged"),
    "size just below zero": ((ONE, member("x", b"", size=-1)), "damaged"),
    "back again for ever": ((ONE, member("._x", b"", size=-1024)), "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE_TARS)
def test_hostile_tars(tmp_path, save, case):
    members, message = HOSTILE_TARS[case]
    save(b"not yours", "secret")
    archive = save(tar_bytes(*members, format=tarfile.GNU_FORMAT))
    (tmp_path / "inner").mkdir()
    with refused(tmp_path, re.escape(message)):
        unpack(archive, tmp_path / "inner" / "out")
    assert not Path("/evil").exists()


@pytest.mark.parametrize("format_", ["gnu", "posix"])
def test_sparse_files(tmp_path, format_):
    """tarfile's own bookkeeping of holes believes whatever the archive says."""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"something")
    archive = tmp_path / "archive"
    subprocess.run(["tar", "-Scf", archive, f"--format={format_}", "-C", tmp_path, "holes"], check=True)
    assert archive.stat().st_size < 1 << 19
    with refused(tmp_path, "'holes', a sparse file"):
        unpack(archive, tmp_path / "out")


def test_folders_may_come_again(tmp_path, save):
    data = tar_bytes(member("a/"), ONE, member("./a"), member("."), member(deep(63)), member(f"{deep(63)}/x", b"x"))
    unpack(save(data), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/1.png": b"one", f"{deep(63)}/x": b"x"}


HOSTILE_ZIPS = {
    "absolute": ((zip_member("/evil", b"x"),), "'/evil', which leads out"),
    "parent": ((zip_member("a/../../evil", b"x"),), "leads out"),
    "parent by backslash": ((zip_member("a\\..\\..\\evil", b"x"),), "leads out"),
    "absolute by backslash": ((zip_member("\\evil", b"x"),), "leads out"),
    "network by backslash": ((zip_member("\\\\host\\evil", b"x"),), "leads out"),
    "drive": ((zip_member("C:\\evil", b"x"),), "leads out"),
    "link": ((zip_member("link", b"a/1.png", kind=0o120000),), "'link', a symbolic link in a zip"),
    "pipe": ((zip_member("pipe", b"", kind=0o010000),), "'pipe', a device"),
    "twice": ((zip_member("a/1.png", b"1"), zip_member("a/1.png", b"2")), "'a/1.png', twice"),
    "twice by backslash": ((zip_member("a/1.png", b"1"), zip_member("a\\1.png", b"2")), "'a/1.png', twice"),
    "encrypted": (
        (zip_member("a", b"1"), zip_member("b", b"2", flag_bits=0x1)),
        "archive is encrypted: unpack it by hand",
    ),
    "unknown method": ((zip_member("a", b"1", compress_type=9),), "rare way .method 9."),
    "larger than any disk": ((zip_member("a", b"1"), zip_member("b", b"2", file_size=2**60)), "times its own size"),
    "smaller than declared": ((zip_member("a", b"1", file_size=2000),), "damaged"),
    "larger than declared": ((zip_member("a", bytes(5_000_000), file_size=10),), "damaged"),
    "wrong checksum": ((zip_member("a", b"1", CRC=1),), "damaged"),
    "another name inside": ((zip_member("aaaa", b"1", filename="bbbb"),), "damaged"),
    "beyond the end": ((zip_member("a", b"1", header_offset=99_999),), "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE_ZIPS)
def test_hostile_zips(tmp_path, save, case):
    members, message = HOSTILE_ZIPS[case]
    archive = save(zip_bytes(*members))
    (tmp_path / "inner").mkdir()
    with refused(tmp_path, message):
        unpack(archive, tmp_path / "inner" / "out")
    assert not Path("/evil").exists()


def test_zips_of_windows(tmp_path, save):
    data = zip_bytes(zip_member("a\\"), zip_member("a\\b\\1.png", b"1"), zip_member("a/2.png", b"2"))
    unpack(save(data), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/b/1.png": b"1", "a/2.png": b"2"}


def test_no_more_is_written_than_declared(tmp_path, save):
    """Even where the checksum goes with the lie."""
    content = NOISE[:500_000]
    crc = zlib.crc32(content[:10])
    unpack(save(zip_bytes(zip_member("a", content, file_size=10, CRC=crc))), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": content[:10]}


@contextmanager
def small_disk(monkeypatch, folder, size):
    """``folder`` lies on a disk with that many bytes free, less what is written to it."""

    def usage(_):
        return SimpleNamespace(free=size - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", usage)
        yield


@pytest.mark.parametrize("kind", FORMATS)
def test_bombs_find_no_room(tmp_path, save, kind, monkeypatch):
    """Three times 400 kB of zeros; a compressed tar cannot be known to be too large before the third."""
    files = {f"{n}.png": bytes(400_000) for n in range(3)}
    archive = save(pack(kind, files))
    out = tmp_path / "disk" / "out"
    out.parent.mkdir()
    most = []

    def check():
        most.append(sum(path.stat().st_size for path in out.parent.rglob("*.png")))

    with small_disk(monkeypatch, out.parent, 1_000_000), refused(tmp_path, "needs .* GiB free: make room"):
        unpack(archive, out, check=check)
    assert max(most, default=0) == {".tar": 0, ".zip": 0}.get(kind, 800_000)
    with small_disk(monkeypatch, out.parent, 1_300_000):
        unpack(archive, out)
    assert tree(out) == files


BOMBS = {
    ".tar.gz": lambda size, count: gzip.compress(tar_bytes(*[member(str(n), bytes(size)) for n in range(count)]), 6),
    ".tar.xz": lambda size, count: lzma.compress(tar_bytes(*[member(str(n), bytes(size)) for n in range(count)])),
    ".zip": lambda size, count: zip_bytes(*[zip_member(str(n), bytes(size)) for n in range(count)]),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_zeros_is_refused_before_it_is_unpacked(tmp_path, save, kind):
    """100 MB of zeros pack to 0.1 MB or less; room for them there is."""
    archive, written = save(BOMBS[kind](100_000_000, 1)), []

    def check():
        written.extend(path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("archive", "lock"))

    with refused(tmp_path, "would unpack to 100,000,000 bytes or more, .* times its own size: unpack it by hand"):
        unpack(archive, tmp_path / "out", check=check)
    assert not written


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
def test_a_bomb_of_many_files_is_refused(tmp_path, save, kind):
    """A tar has no directory: it is stopped at the first member too many. A zip is not begun."""
    count = 30_000 if kind == ".zip" else 11_000
    archive = save(_crowded_zip(count) if kind == ".zip" else BOMBS[kind](0, count))
    most = []
    with refused(tmp_path, "members or more, of which its size of .* bytes allows"):
        unpack(archive, tmp_path / "out", check=lambda: most.append(1))
    assert len(most) == 0 if kind == ".zip" else 10_000 <= len(most) < count


def test_a_crowd_of_empty_files_is_more_than_its_size_allows(tmp_path):
    """Headers alone take 512 bytes of a tar each; images a thousand and more."""
    assert Limits(tmp_path / "x.tar", 512 * 50_000).members < 50_000
    assert Limits(tmp_path / "x.tar", 2048 * 50_000).members > 50_000


def _crowded_zip(count):
    """Every entry of its directory is the same file: else each would take more than 100 bytes."""
    one = io.BytesIO(zip_bytes(zip_member("a", b"1")))
    with zipfile.ZipFile(one, "a") as archive:
        archive.filelist *= count
        archive._didModify = True
    return one.getvalue()


def test_what_images_pack_to_is_no_bomb(tmp_path, save):
    """Masks shrink a hundred times, and are a part of a dataset."""
    files = {"image.png": NOISE[:1_000_000], **{f"mask{n}.bmp": bytes(1_000_000) for n in range(10)}}
    unpack(save(pack(".tar.gz", files)), tmp_path / "out")
    assert tree(tmp_path / "out") == files


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("wiped", [1, 2])
def test_a_wiped_header_is_no_end(tmp_path, save, kind, wiped):
    """Zeros in the place of a header look like the end of the tar: what follows would be lost without a word."""
    packed = bytearray(tar_bytes(member("1.png", NOISE[:512]), member("2.png", NOISE[:512]), member("3.png", b"3")))
    packed[1024 : 1024 + 512 * wiped] = bytes(512 * wiped)
    archive = save(PACKED[kind](bytes(packed)))
    with refused(tmp_path, "damaged or truncated .something follows its end"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", PACKED)
def test_tapes_are_padded_with_zeros(tmp_path, save, kind):
    unpack(save(PACKED[kind](tar_bytes(ONE) + bytes(10240))), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/1.png": b"one"}


def test_two_tars_in_one_file_are_refused(tmp_path, save):
    archive = save(tar_bytes(ONE) + tar_bytes(member("a/2.png", b"two")))
    with refused(tmp_path, "something follows its end"):
        unpack(archive, tmp_path / "out")


def test_a_header_bomb_is_not_read(tmp_path, save):
    """A name of 64 MB, which compresses to nothing, would be read to memory at once."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 64_000_000
    archive = save(gzip.compress(tar_bytes((info, b"n" * 64_000_000), ONE), 1))
    with refused(tmp_path, "damaged or truncated .a header of 64000000 bytes"):
        unpack(archive, tmp_path / "out")


def test_a_full_disk(tmp_path, save, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unpacking, "write_all", full)
    archive = save(pack(".tar.gz", FILES))
    with refused(tmp_path, "cannot be written .*No space left"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_archives(tmp_path, save, kind):
    """At any place: also between two members of a plain tar, where tarfile sees nothing amiss."""
    files = {"a/1.png": NOISE[:3000], "a/2.png": NOISE[3000:4000], "b.txt": b"b" * 512}
    whole = pack(kind, files)
    end = len(whole) - (1024 if kind == ".tar" else 0)  # a tar's own end is two empty blocks, of which one will do
    for size in {*range(0, end, 61), *range(512, end, 512), end - 1, end if kind == ".tar" else 0}:
        archive = save(whole[:size])
        with refused(tmp_path, "download it again"):
            unpack(archive, tmp_path / "out")
    unpack(save(whole), tmp_path / "out")
    assert tree(tmp_path / "out") == files


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_archives(tmp_path, save, kind):
    """A changed byte: found where the format has checksums (a plain tar has them for its headers)."""
    files = {"a/1.png": NOISE[:3000], "a/2.png": NOISE[3000:4000]}
    whole = bytearray(pack(kind, files))
    place = whole.index(b"a/2.png") if kind == ".tar" else len(whole) // 2
    whole[place] ^= 0x55
    archive = save(whole)
    with refused(tmp_path, "damaged or truncated .*: download it again"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", [".tar", ".zip"])
def test_any_bytes_are_refused_or_stay_inside(tmp_path, save, kind):
    chance = random.Random(1)
    if kind == ".zip":
        whole = pack(kind, {"a/1.png": b"one", "b/../b.txt": b"two", "c.txt": b"three"})
    else:
        whole = tar_bytes(ONE, symlink("a/l", "1.png"), hardlink("h", "a/1.png"), member("n" * 150, b"x"))
    save(b"not yours", "secret")
    refusals = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 0xFF, 0x2E, 0x2F, chance.randrange(256)))
        archive = save(data)
        try:
            unpack(archive, tmp_path / "inner" / "out")
        except UserError:
            refusals += 1
        out = tmp_path / "inner" / "out"
        assert all(path.resolve().is_relative_to(out) for path in out.rglob("*"))
        if out.exists():
            subprocess.run(["rm", "-r", out], check=True)
        assert tree(tmp_path) == {"archive": bytes(data), "secret": b"not yours", "inner": "empty folder"}
    assert refusals > 20


NO_ARCHIVES = {
    "nothing": (b"", "is empty: download it again"),
    "text": (b"hello\n" * 200, "is no .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip"),
    "web page": (b"\n<!DOCTYPE html><html>log in" + b" " * 600, "is no archive but a web page"),
    "compressed text": (gzip.compress(b"hello\n" * 200), "damaged or truncated"),
    "compressed nothing": (gzip.compress(b""), "damaged or truncated"),
    "tar of nothing": (bytes(10240), "holds no files"),
    "compressed tar of nothing": (lzma.compress(bytes(10240)), "holds no files"),
    "tar of folders": (tar_bytes(member("a/"), member("b/")), "holds no files"),
    "zip of nothing": (zip_bytes(), "holds no files"),
    "zeros, too few": (bytes(300), "is no .tar"),
}


@pytest.mark.parametrize("case", NO_ARCHIVES)
def test_what_is_no_archive(tmp_path, save, case):
    data, message = NO_ARCHIVES[case]
    archive = save(data)
    with refused(tmp_path, message):
        unpack(archive, tmp_path / "out")


def test_no_file_at_all(tmp_path):
    for name, message in (("missing", "No such file"), ("", "Is a directory")):
        with refused(tmp_path, message):
            unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_the_disk_does_not_tell_apart(tmp_path, save, kind, monkeypatch):
    """On a disk that ignores case, as of macOS and Windows, here played by one that writes all names small."""
    making = unpacking._Writer.making

    def folding(self, parts):
        return making(self, tuple(part.casefold() for part in parts))

    monkeypatch.setattr(unpacking._Writer, "making", folding)
    for first, second, twice in (("a/X.png", "a/x.png", "a/x.png"), ("Train/1.png", "train/2.png", "train")):
        archive = save(pack(kind, {first: b"1", second: b"2"}))
        with refused(tmp_path, f"'{twice}', twice, or in two spellings"):
            unpack(archive, tmp_path / "out")
    monkeypatch.undo()
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"Train/1.png": b"1", "train/2.png": b"2"}


def test_a_folder_that_cannot_be_read(tmp_path, save, monkeypatch):
    archive = save(pack(".zip", FILES))
    (tmp_path / "out").mkdir()

    def closed(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(UserError, match="out: Permission denied"):
        unpack(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["archive", "out"]


def test_what_is_there_stays(tmp_path, save, monkeypatch):
    archive = save(pack(".zip", FILES))
    out = tmp_path / "out"
    out.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("os.path.ismount", lambda path: Path(path) == out)
        with refused(tmp_path, "where a disk is mounted"):
            unpack(archive, out)
    (out / "mine").touch()
    with refused(tmp_path, "exists and is not empty"):
        unpack(archive, out)
    with refused(tmp_path, "is a file"):
        unpack(archive, out / "mine")
    with refused(tmp_path, "Not a directory"):
        unpack(archive, out / "mine" / "deeper" / "out")
    (out / "mine").unlink()
    unpack(archive, out)
    assert tree(out) == FILES


def test_through_a_link_to_another_disk(tmp_path, save):
    (tmp_path / "big" / "out").mkdir(parents=True)
    (tmp_path / "out").symlink_to("big/out")
    unpack(save(pack(".zip", FILES)), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "big" / "out") == FILES


@pytest.mark.parametrize("kind", FORMATS)
def test_several_archives_into_one_folder(tmp_path, save, kind):
    out = tmp_path / "out"
    first, second = {"bottle/1.png": b"1", "license.txt": b"l"}, {"cable/1.png": b"2", "cable/2.png": b"3"}
    unpack(save(pack(kind, first)), out, into=True)
    (out / "mine").mkdir()
    unpack(save(pack(kind, second)), out, into=True)
    whole = {**first, **second, "mine": "empty folder"}
    assert tree(out) == whole
    for entry in ("cable/3.png", "license.txt", "mine", "mine/1.png"):
        archive = save(pack(kind, {"another/1.png": b"1", entry: b"new"}))
        name = re.escape(str(out / entry.split("/")[0]))
        with refused(tmp_path, f"^{name} exists already"):
            unpack(archive, out, into=True)
    assert tree(out) == whole
    archive, calls = save(pack(kind, {"cable/new.png": NOISE})), []
    with refused(tmp_path, "cable exists already"):  # before 2 MB are written for nothing
        unpack(archive, out, into=True, check=lambda: calls.append(1))
    assert not calls


def test_into_is_all_or_nothing(tmp_path, save, monkeypatch):
    """Moving fails at the third entry, or finds there what was not there before."""
    out = tmp_path / "out"
    out.mkdir()
    archive = save(pack(".zip", dict.fromkeys("abcd", b"new")))
    rename = os.rename

    def failing(source, target):
        if Path(target) == out / "c":
            raise OSError(errno.EIO, "disk gone")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with refused(tmp_path, "disk gone"):
            unpack(archive, out, into=True)

    def late(self, parts):
        (out / "c").write_bytes(b"old")

    monkeypatch.setattr(unpacking._Writer, "refuse_twin", late)
    with pytest.raises(UserError, match="c exists already"):
        unpack(archive, out, into=True)
    assert tree(tmp_path) == {"archive": archive.read_bytes(), "out/c": b"old"}


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_an_interrupt_leaves_nothing(tmp_path, save, kind, into):
    """Wherever it comes."""
    archive = save(pack(kind, {"a/1.png": NOISE[: (1 << 20) + 5], "a/2.png": b"2", "b/3.png": b"3"}))
    calls = []
    unpack(archive, tmp_path / "counted", check=lambda: calls.append(1))
    assert len(calls) > 5
    for moment in range(1, len(calls) + 1):
        left = iter(range(moment - 1, -1, -1))

        def check(left=left):
            if next(left) == 0:
                raise Stopped("now") if moment % 2 else KeyError("now")  # noqa: B023

        before = tree(tmp_path)
        with pytest.raises((Stopped, KeyError), match="now"):
            unpack(archive, tmp_path / "out", into=into, check=check)
        assert tree(tmp_path) == before


def test_every_member_is_a_chance_to_end(tmp_path, save):
    """A folder with 50 others may take its time as well."""
    archive, calls = save(tar_bytes(*(member(f"{n}/") for n in range(50)), ONE)), []
    unpack(archive, tmp_path / "out", check=lambda: calls.append(1))
    assert len(calls) > 50


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EIO, r"archive cannot be read \(Input/output error\): check the disk"),
        (errno.EINVAL, "damaged or truncated"),  # a place before the start was asked for
    ],
)
def test_disk_and_damage_are_told_apart(tmp_path, save, monkeypatch, number, message):
    def read(self, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ader.obtaining.members._Forward.read", read)
    archive = save(pack(".tar", FILES))
    with refused(tmp_path, message):
        unpack(archive, tmp_path / "out")


def test_a_signal_while_reading_is_no_damage(tmp_path, save, monkeypatch):
    def read(self, size):
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr("ader.obtaining.members._Forward.read", read)
    archive = save(pack(".tar", FILES))
    before = tree(tmp_path)
    with pytest.raises(Stopped, match="SIGTERM"):
        unpack(archive, tmp_path / "out")
    assert tree(tmp_path) == before


SLOW = """
import sys, time
from pathlib import Path
from ader.obtaining import unpack
def check():
    print("working", flush=True)
    time.sleep(60)
unpack(Path(sys.argv[1]), Path(sys.argv[2]), check=check)
"""


def test_after_kill_9(tmp_path, save):
    archive = save(pack(".zip", FILES))
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", SLOW, archive, out], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"working\n"
            (left,) = tmp_path.glob(".out.unpacking-*")
            with pytest.raises(UserError, match="another process is unpacking to"):
                unpack(archive, out)
            assert (left / "content").is_dir()
        finally:
            process.send_signal(signal.SIGKILL)
    assert left.exists()
    (tmp_path / ".outer.unpacking-1").mkdir()  # another folder's
    (tmp_path / ".out.mine").mkdir()
    (tmp_path / ".out.unpacking-1").touch()  # not ours
    unpack(archive, out)
    assert tree(out) == FILES
    assert {path.name for path in tmp_path.iterdir()} == {
        "archive",
        "out",
        ".outer.unpacking-1",
        ".out.mine",
        ".out.unpacking-1",
    }


# ---------------------------------------------------------------------------------------------------------- checksums


def test_checksums(tmp_path, save):
    file = save(NOISE)
    steps = []
    for kind in ("md5", "sha256"):
        assert checksum(file, kind, progress=lambda *step: steps.append(step)) == hashlib.new(kind, NOISE).hexdigest()
    assert steps == [(min(n << 20, len(NOISE)), len(NOISE)) for n in (1, 2, 3)] * 2
    assert checksum(save(b""), "md5") == "d41d8cd98f00b204e9800998ecf8427e"
    with pytest.raises(Stopped):
        checksum(save(NOISE), "md5", check=_stop)


def _stop():
    raise Stopped("now")


def test_verifying(tmp_path, save):
    file = save(NOISE)
    right = {"sha256": hashlib.sha256(NOISE).hexdigest(), "md5": hashlib.md5(NOISE).hexdigest(), "size": len(NOISE)}
    verify(file, **right)
    for key, value in right.items():
        verify(file, **{key: value.upper() if isinstance(value, str) else value})
        wrong = "0" * len(value) if isinstance(value, str) else value + 1
        with (
            refused(tmp_path, f"{file} is not .*{value}.*not {wrong}: remove it")
            if key != "size"
            else refused(tmp_path, f"{file} is not .* has {value} bytes, not {wrong}: remove it")
        ):
            verify(file, **{**right, key: wrong})
    with refused(tmp_path, "missing: No such file"):
        verify(tmp_path / "missing", size=1)
    with pytest.raises(ValueError, match="give sha256, md5 or size") as caught:
        verify(file)
    assert not isinstance(caught.value, UserError)


# -------------------------------------------------------------------------------------------------------- downloading


@dataclass
class Site:
    """What the server does, and what it saw."""

    content: bytes = NOISE
    ranges: bool = True
    most: int | None = None  # bytes it sends before it hangs up
    status: int | None = None
    location: str | None = None
    length: bool = True
    wrong_range: bool = False
    stall: bool = False
    url: str = ""
    requests: list = field(default_factory=list)
    sent: int = 0

    @property
    def sums(self):
        return {"sha256": hashlib.sha256(self.content).hexdigest(), "md5": hashlib.md5(self.content).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        site.requests.append((self.path, dict(self.headers)))
        if self.path == "/moved":
            self.send_response(site.status)
            self.send_header("Location", site.location)
            self.end_headers()
        elif site.status is not None and not site.location:
            self.send_error(site.status)
        else:
            self.answer(site)

    def answer(self, site):
        start, total = 0, len(site.content)
        if site.ranges and "Range" in self.headers:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            stated = start - 1 if site.wrong_range else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {stated}-{total - 1}/{total}")
        else:
            self.send_response(200)
        if site.length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        body = site.content[start:][: site.most]
        site.sent += len(body)
        self.wfile.write(body)
        self.wfile.flush()
        if site.stall:
            time.sleep(2)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.site = Site(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.site
        server.shutdown()
        thread.join()


def both(file):
    """The file and what there is of it."""
    part = file.with_name(file.name + ".part")
    return [path.read_bytes() if path.exists() else None for path in (file, part)]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_download(tmp_path, site, kind):
    file, steps = tmp_path / "deep" / "data.zip", []
    download(f"{site.url}/data", file, **{kind: site.sums[kind].upper()}, progress=lambda *step: steps.append(step))
    assert both(file) == [NOISE, None]
    assert steps[-1] == (len(NOISE), len(NOISE))
    assert steps == sorted(set(steps))
    ((path, headers),) = site.requests
    assert path == "/data"
    assert headers.keys() == {"Host", "User-Agent", "Accept-Encoding", "Connection"}
    assert headers["User-Agent"].startswith("ader/")


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_broke_off(tmp_path, site, ranges):
    file, most = tmp_path / "data.zip", 700_001
    site.most, site.ranges = most, ranges
    for time_ in (1, 2):
        done = time_ * most if ranges else most
        with pytest.raises(UserError, match=f"broke off after {done} of {len(NOISE)} bytes .*give the command again"):
            download(site.url, file, **site.sums)
        assert both(file) == [None, NOISE[:done]]
    site.most, site.sent = None, 0
    steps = []
    download(site.url, file, **site.sums, progress=lambda *step: steps.append(step))
    assert both(file) == [NOISE, None]
    assert site.sent == (len(NOISE) - 2 * most if ranges else len(NOISE))
    assert steps[0][0] > (2 * most if ranges else 0)
    assert [headers.get("Range") for _, headers in site.requests] == [
        None,
        f"bytes={most}-",
        f"bytes={2 * most if ranges else most}-",
    ]


def test_a_server_that_goes_on_elsewhere(tmp_path, site):
    file = tmp_path / "data.zip"
    (tmp_path / "data.zip.part").write_bytes(NOISE[:1000])
    site.wrong_range = True
    download(site.url, file, **site.sums)
    assert both(file) == [NOISE, None]
    assert [headers.get("Range") for _, headers in site.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        (NOISE, ["bytes=2500000-"]),  # it was killed before the last step
        (NOISE + b"more", ["bytes=2500004-", None]),
    ],
)
def test_nothing_is_missing(tmp_path, site, part, requests):
    file = tmp_path / "data.zip"
    (tmp_path / "data.zip.part").write_bytes(part)
    download(site.url, file, **site.sums)
    assert both(file) == [NOISE, None]
    assert [headers.get("Range") for _, headers in site.requests] == requests


@pytest.mark.parametrize("part", [b"", b"another file's"])
@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum(tmp_path, site, kind, part):
    """Of what the server has, or because of what lay there."""
    file = tmp_path / "data.zip"
    (tmp_path / "data.zip.part").write_bytes(part)
    right = site.sums[kind]
    found = hashlib.new(kind, part + NOISE[len(part) :]).hexdigest()
    wanted = right if part else "0" * len(right)
    with pytest.raises(UserError, match=f"{kind} is {found}, not {wanted}: it is removed"):
        download(site.url, file, **{kind: wanted})
    assert both(file) == [None, None]
    download(site.url, file, **{kind: right})
    assert both(file) == [NOISE, None]


def test_both_checksums_must_be_right(tmp_path, site):
    for kind in ("sha256", "md5"):
        wrong = {**site.sums, kind: "0" * len(site.sums[kind])}
        with refused(tmp_path, f"its {kind} is"):
            download(site.url, tmp_path / "data.zip", **wrong)


def test_a_file_that_is_there_is_verified(tmp_path, site):
    file = tmp_path / "data.zip"
    file.write_bytes(NOISE)
    download(site.url, file, **site.sums)
    file.write_bytes(b"mine")
    with refused(tmp_path, "data.zip is not the file that is meant"):
        download(site.url, file, **site.sums)
    assert site.requests == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "answers 404 Not Found: it is not there"),
        (403, "answers 403 Forbidden: .* by hand"),
        (401, "wants a login"),
        (418, "answers 418 .* by hand"),
        (503, "answers 503 .*again later"),
        (202, "answers with status 202 instead of a file"),
    ],
)
def test_refusals_of_the_server(tmp_path, site, status, message):
    site.status = status
    with refused(tmp_path, message):
        download(f"{site.url}/data.zip", tmp_path / "data.zip", **site.sums)
    (tmp_path / "data.zip.part").write_bytes(NOISE[:10])
    with refused(tmp_path, message):  # what there is stays
        download(f"{site.url}/data.zip", tmp_path / "data.zip", **site.sums)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections(tmp_path, site, status):
    site.status, site.location = status, "/elsewhere"
    (tmp_path / "data.zip.part").write_bytes(NOISE[:10])
    download(f"{site.url}/moved", tmp_path / "data.zip", **site.sums)
    assert both(tmp_path / "data.zip") == [NOISE, None]
    assert [(path, headers.get("Range")) for path, headers in site.requests] == [
        ("/moved", "bytes=10-"),
        ("/elsewhere", "bytes=10-"),
    ]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("file://{}", "nowhere that can be followed"),
        ("data:,secret", "nowhere that can be followed"),
        ("/moved", "nowhere that can be followed"),  # again and again
        ("ftp://127.0.0.1/x", "to ftp://127.0.0.1/x, is no http or https address"),
    ],
)
def test_redirections_to_other_places(tmp_path, site, save, where, message):
    secret = save(b"secret", "secret")
    site.status, site.location = 302, where.format(secret)
    with refused(tmp_path, f"^{site.url}/moved(, which)? redirects .*{message}"):
        download(f"{site.url}/moved", tmp_path / "data.zip", sha256=hashlib.sha256(b"secret").hexdigest())
    assert {path for path, _ in site.requests} == {"/moved"}


@pytest.mark.parametrize("url", ["file://{}", "FILE://{}", "ftp://127.0.0.1/x", "data:,secret", "{}", "http:///x", ""])
def test_other_schemes(tmp_path, save, url, site):
    download(site.url.replace("http", "HTTP"), tmp_path / "right", **site.sums)
    secret = save(b"secret", "secret")
    with refused(tmp_path, "is no http or https address"):
        download(url.format(secret), tmp_path / "data.zip", sha256=hashlib.sha256(b"secret").hexdigest())


def test_nobody_there(tmp_path, site, monkeypatch):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with refused(tmp_path, f"{url} cannot be reached .*refused.*: check the network"):
            download(url, tmp_path / "data.zip", md5="0")
    for url in ("http://a b/", "http://[::1/", "http://127.0.0.1:port/", "http://user@:80/"):
        with refused(tmp_path, "cannot be reached"):
            download(url, tmp_path / "data.zip", md5="0")


def test_a_silent_server(tmp_path, site, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.3)
    site.most, site.stall = 100_000, True
    with pytest.raises(UserError, match=r"broke off after 100000 of 2500000 bytes \(timed out\)"):
        download(site.url, tmp_path / "data.zip", **site.sums)
    assert both(tmp_path / "data.zip") == [None, NOISE[:100_000]]
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with refused(tmp_path, "cannot be reached .timed out"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "other", md5="0")
        assert time.monotonic() - start < 5


def test_an_interrupt_keeps_what_came(tmp_path, site):
    file, calls = tmp_path / "data.zip", []

    def check():
        calls.append(1)
        if len(calls) == 5:
            raise Stopped("now")

    with pytest.raises(Stopped, match="now"):
        download(site.url, file, **site.sums, check=check)
    done, part = both(file)
    assert done is None
    assert 0 < len(part) < len(NOISE)
    assert part == NOISE[: len(part)]
    download(site.url, file, **site.sums)
    assert both(file) == [NOISE, None]
    assert site.requests[1][1]["Range"] == f"bytes={len(part)}-"


def test_no_length(tmp_path, site):
    """Then the end is where the connection ends, and the checksum says whether it is the right one."""
    site.length, steps = False, []
    download(site.url, tmp_path / "data.zip", **site.sums, progress=lambda *step: steps.append(step))
    assert both(tmp_path / "data.zip") == [NOISE, None]
    assert steps[len(steps) // 2][1] == 0


def test_no_room(tmp_path, site, monkeypatch):
    (tmp_path / "data.zip.part").write_bytes(NOISE[:1_000_000])
    with small_disk(monkeypatch, tmp_path, 2_400_000), refused(tmp_path, "needs .* GiB free"):
        download(site.url, tmp_path / "data.zip", **site.sums)
    with small_disk(monkeypatch, tmp_path, 2_600_000):
        download(site.url, tmp_path / "data.zip", **site.sums)


def test_a_full_disk_keeps_what_fits(tmp_path, site, monkeypatch):
    write_all = disk.write_all

    def full(stream, block):
        if stream.tell() > 500_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(stream, block)

    monkeypatch.setattr(downloading, "write_all", full)
    with pytest.raises(UserError, match="part: No space left"):
        download(site.url, tmp_path / "data.zip", **site.sums)
    _, part = both(tmp_path / "data.zip")
    assert part == NOISE[: len(part)]
    assert len(part) > 500_000


def test_one_download_at_a_time(tmp_path, site):
    part = tmp_path / "data.zip.part"
    with alone(part, "testing"), refused(tmp_path, "another process is downloading .*data.zip: wait"):
        download(site.url, tmp_path / "data.zip", **site.sums)
    assert site.requests == []
    download(site.url, tmp_path / "data.zip", **site.sums)


def test_a_hold_on_a_file_that_was_moved_is_none(tmp_path, monkeypatch):
    """Between opening and locking, the holder may have finished: what is locked then is its finished file."""
    flock = fcntl.flock

    def late(descriptor, operation):
        os.replace(tmp_path / "part", tmp_path / "done")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process is testing"), alone(tmp_path / "part", "testing"):
        pytest.fail("it is not held")


def test_disks_without_locks(tmp_path, site, monkeypatch):
    """As some network disks are; any other failure is told."""
    numbers = iter((errno.ENOSYS, errno.EIO))

    def flock(*_):
        number = next(numbers)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    download(site.url, tmp_path / "data.zip", **site.sums)
    assert both(tmp_path / "data.zip") == [NOISE, None]
    with pytest.raises(UserError, match=r"other\.part: Input/output error"):
        download(site.url, tmp_path / "other", **site.sums)


def test_all_is_written():
    """Though the system may take less at once."""
    taken = []

    class Slow(io.RawIOBase):
        def write(self, data):
            taken.append(bytes(data[:3]))
            return len(taken[-1])

    disk.write_all(Slow(), b"0123456789")
    assert b"".join(taken) == b"0123456789"


def test_a_checksum_must_be_given(tmp_path, site):
    with pytest.raises(ValueError, match="give sha256 or md5") as caught:
        download(site.url, tmp_path / "data.zip")
    assert not isinstance(caught.value, UserError)
    assert site.requests == []
