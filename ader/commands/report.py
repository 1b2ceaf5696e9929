"""``ader report``: the whole results tree as one page."""

from __future__ import annotations

from pathlib import Path

from ader.commands._request import Request
from ader.system.errors import UserError

SUMMARY = "ader report [out=FILE]         the results tree as one HTML page: leaderboard, categories, galleries"

USAGE = """\
ader report [out=FILE_OR_FOLDER] [where='key=value ...'] [inline=true] [figures=false]

The whole results tree as one HTML page that needs neither network nor server: leaderboard, every run's table per
category, curves, galleries, what each number was made from, and runs without a result with the reason.

  out=FILE.html|FOLDER          default: RESULTS/report/index.html; in a folder it is index.html
  where='dataset=mvtec,visa method=rd'   only these runs: any key of their configuration, values after commas
  inline=true                   pictures of galleries inside the page; else in the folder pictures/ beside it
  figures=false                 without those of ader figure, which take most of the time
  paths.results=DIR             the tree; else ADER_RESULTS, else results

Opened from disk: file://.../index.html. A run has an address of its own, index.html#run=..., and so has a filtered
leaderboard.
"""


def main(request: Request) -> int:
    """Writes the page, and says where it is and how large."""
    request.nothing_composed()
    out, request = request.value("out")
    where, request = request.value("where")
    inline, request = request.option("inline", ("false", "true"))
    figures, request = request.option("figures", ("true", "false"))
    results, request = request.value("paths.results")
    if request.words:
        raise UserError(f"ader report takes out=, where=, inline=, figures= and paths.results=, got {request.words[0]}")
    from ader.config.paths import default_folder
    from ader.report.collection import collect
    from ader.report.page.build import build, summary
    from ader.report.where import select

    root = default_folder("results") if results is None else _folder(results, "paths.results")
    runs = select(collect(root), where or "")
    if not runs:
        raise UserError(f"there is no run in {root}: ader dataset=demo method=rd makes one, or give paths.results=DIR")
    built = build(runs, page_file(out, root), root, inline == "true", figures == "true")
    print(f"{built.file}  {_size(built.size)}, {summary(runs)}")
    if built.pictures:
        print(f"{built.pictures} pictures beside it, {_size(built.picture_bytes)}: they belong to the page")
    return 0


def page_file(out: str | None, root: Path) -> Path:
    """Where the page is to be written.

    Raises:
        UserError: that is a folder by a file's name, or no path.
    """
    if out is None:
        return root / "report" / "index.html"
    path = _folder(out, "out")
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / "index.html"
    if path.is_dir():
        raise UserError(f"out={out} is a folder: give a file's name, or another folder")
    blocked = next((each for each in path.parents if each.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise UserError(f"out={out}: {blocked} is a file, not a folder: give another one")
    return path


def _folder(text: str, key: str) -> Path:
    """A path that was typed.

    Raises:
        UserError: it is none.
    """
    try:
        if not text or "\0" in text:
            raise UserError(f"{key}= needs a path: {key}=DIR")
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long a name, no such user
        raise UserError(f"{key}={text[:200]!r} is no path ({error})") from error
    return path


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
