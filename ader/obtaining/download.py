"""Fetches a file by HTTP, in as many attempts as it takes, and believes nothing but its checksum."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from io import RawIOBase
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast
from urllib.error import HTTPError

from ader.obtaining.disk import BLOCK, Check, Progress, alone, need_room, telling, write_all
from ader.system.errors import UserError
from ader.system.version import VERSION

Kind = Literal["md5", "sha256"]

AGENT = f"ader/{VERSION} (benchmark runner; Python urllib)"
TIMEOUT = 30.0  # seconds without any answer, each time
RECEIVED = 1 << 16  # bytes at once, so that a slow line is asked often whether to go on

#: What the user can do about an answer, by its status.
REMEDIES = {
    401: "it wants a login: download the file by hand",
    403: "the server refuses it: download the file by hand, there may be terms to accept",
    404: "it is not there (any more): download the file by hand",
    410: "it is not there any more: download the file by hand",
    429: "too many requests: give the command again later",
}


def checksum(file: Path, kind: Kind, progress: Progress | None = None, check: Check | None = None) -> str:
    """Of a file's content, in small hexadecimal digits."""
    return _checksums(file, [kind], progress, check)[kind]


def verify(
    file: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
) -> None:
    """Checks that a file is the one that is meant; all that is given must be right.

    Args:
        file: the file.
        sha256: in hexadecimal digits.
        md5: likewise.
        size: in bytes.
        progress: called with the bytes read, and the file's size.
        check: called after every megabyte; may raise.

    Raises:
        UserError: it is another file, damaged, or cannot be read.
        ValueError: nothing is given to check.
    """
    expected = _expected(sha256, md5)
    if not expected and size is None:
        raise ValueError("give sha256, md5 or size")
    wrong = _difference(file, expected, size, progress, check)
    if wrong:
        raise UserError(f"{file} {wrong}: remove it and download it again")


def _expected(sha256: str | None, md5: str | None) -> dict[Kind, str]:
    """The checksums that are given."""
    given: dict[Kind, str | None] = {"sha256": sha256, "md5": md5}
    return {kind: digits.strip().lower() for kind, digits in given.items() if digits}


def _difference(
    file: Path, expected: Mapping[Kind, str], size: int | None, progress: Progress | None, check: Check | None
) -> str | None:
    """What is not as expected."""
    with telling(file):
        found = file.stat().st_size
    if size is not None and found != size:
        return f"is not the file that is meant, or damaged: it has {found} bytes, not {size}"
    sums = _checksums(file, list(expected), progress, check) if expected else {}
    for kind, digits in sums.items():
        if digits != expected[kind]:
            return f"is not the file that is meant, or damaged: its {kind} is {digits}, not {expected[kind]}"
    return None


def _checksums(file: Path, kinds: list[Kind], progress: Progress | None, check: Check | None) -> dict[Kind, str]:
    """Several in one reading."""
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    done = 0
    with telling(file):
        stream = file.open("rb")
    with stream:
        total = os.fstat(stream.fileno()).st_size
        while True:
            with telling(file):  # and nothing else: what progress or check raise is no error of the disk
                block = stream.read(BLOCK)
            if not block:
                return {kind: digest.hexdigest() for kind, digest in digests.items()}
            for digest in digests.values():
                digest.update(block)
            done += len(block)
            _tell(done, total, progress, check)


def _tell(done: int, total: int, progress: Progress | None, check: Check | None) -> None:
    if check is not None:
        check()
    if progress is not None:
        progress(done, total)


def download(
    url: str,
    file: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
) -> None:
    """Fetches ``url`` to ``file``, which appears whole and verified or not at all.

    What has come lies in ``<file>.part``; the next call goes on from there if the server can. A ``file`` that is
    there already is verified instead. Nothing is sent but the request; proxies are taken from the environment.

    Args:
        url: http or https; redirections are followed to no other.
        file: is made, with its folder.
        sha256: the file's, in hexadecimal digits; this or ``md5`` must be given.
        md5: likewise.
        progress: called with the bytes there are, and those there will be or 0 where the server does not say.
        check: called for every piece that comes; what it raises ends the download, and ``.part`` stays.

    Raises:
        UserError: another scheme; no connection, or it broke off; the server has no such file; the checksum is wrong
            (``.part`` is removed); no room; or another process is downloading the same file.
        ValueError: no checksum is given.
    """
    expected = _expected(sha256, md5)
    if not expected:
        raise ValueError("give sha256 or md5: what comes without one cannot be trusted")
    _check_scheme(url, url)
    if file.exists():
        verify(file, sha256=sha256, md5=md5, progress=progress, check=check)
        return
    part = file.with_name(f"{file.name}.part")
    with ExitStack() as stack:
        with telling(part):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(part, f"downloading {file}"))
        stack.callback(_remove_empty, part)
        _fetch(url, part, progress, check)
        _accept(url, part, file, expected, check)


def _remove_empty(part: Path) -> None:
    """Nothing came, so there is nothing to go on from."""
    if part.exists() and not part.stat().st_size:
        part.unlink()


def _accept(url: str, part: Path, file: Path, expected: Mapping[Kind, str], check: Check | None) -> None:
    """The last step, if the checksum is right."""
    wrong = _difference(part, expected, None, None, check)
    if wrong:
        part.unlink()
        raise UserError(
            f"what came from {url} {wrong}: it is removed; give the command again, and if it comes again like this, "
            "download the file by hand"
        )
    with telling(file):
        os.replace(part, file)


def _fetch(url: str, part: Path, progress: Progress | None, check: Check | None) -> None:
    """Completes ``part``, as far as the server says how long it is."""
    answer = _ask(url, part.stat().st_size)
    if answer is None:
        return
    done, total = answer.start, answer.total
    with closing(answer.response), _writing(part, done) as stream:
        need_room(part.parent, total - done, url)
        while not total or done < total:
            try:
                block = answer.response.read1(min(RECEIVED, total - done) if total else RECEIVED)
            except (OSError, HTTPException) as error:
                raise _broke_off(url, done, total, str(error) or type(error).__name__) from error
            if not block:
                break
            with telling(part):
                write_all(stream, block)
            done += len(block)
            _tell(done, total, progress, check)
        if done < total:
            raise _broke_off(url, done, total, "the connection ended")


@contextmanager
def _writing(part: Path, start: int) -> Iterator[RawIOBase]:
    """The file, to be continued at ``start``."""
    with telling(part):
        stream = part.open("r+b", buffering=0)
    with stream:
        with telling(part):
            stream.truncate(start)
            stream.seek(start)
        yield stream
        with telling(part):
            os.fsync(stream.fileno())


def _broke_off(url: str, done: int, total: int, why: str) -> UserError:
    return UserError(
        f"{url} broke off after {done} of {total or 'unknown'} bytes ({why}): give the command again to go on"
    )


class _Answer(NamedTuple):
    """What the server sends: the file from byte ``start`` on, of ``total``, which is 0 where it does not say."""

    response: HTTPResponse
    start: int
    total: int


def _ask(url: str, have: int) -> _Answer | None:
    """Asks for what is missing, or for all where the server cannot go on from there; None if nothing is missing."""
    response = _open(url, have)
    if response.status == 200:
        return _Answer(response, 0, response.length or 0)
    if not have:
        response.close()
        raise UserError(f"{url} answers with status {response.status} instead of a file: download it by hand")
    stated = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", "").strip())
    if response.status == 206 and stated and stated[1] and int(stated[1]) == have:
        return _Answer(response, have, int(stated[2]))
    response.close()
    if response.status == 416 and stated and int(stated[2]) == have:
        return None
    return _ask(url, 0)


def _open(url: str, have: int) -> HTTPResponse:
    """The answer to a request for all but the first ``have`` bytes."""
    headers = {"User-Agent": AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and have:
            return cast(HTTPResponse, error)
        with error:
            if 300 <= error.code < 400:  # urllib's own refusal of other schemes, and of circles
                way = f"redirects to nowhere that can be followed ({error.reason})"
                raise UserError(f"{url} {way}: download the file by hand") from error
            trouble = error.code >= 500
            usual = "the server is in trouble: give the command again later" if trouble else "download it by hand"
            remedy = REMEDIES.get(error.code, usual)
            raise UserError(f"{url} answers {error.code} {error.reason}: {remedy}") from error
    except UserError:  # of a redirection
        raise
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be reached ({why}): check the network, or download the file by hand") from error
    return cast(HTTPResponse, response)


def _opener() -> urllib.request.OpenerDirector:
    """What opens http and https and nothing else: ``build_opener`` would open files as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirections,
    ):
        opener.add_handler(handler())
    return opener


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl, f"{req.full_url}, which redirects to {newurl},")
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # which Python 3.10 does not know


def _check_scheme(url: str, what: str) -> None:
    if not re.match("https?://[^/]", url, re.IGNORECASE):
        raise UserError(f"{what} is no http or https address: download the file by hand")
