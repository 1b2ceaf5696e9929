"""The documentation builds, is whole, and every command and every piece of Python in it works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from ader.__main__ import command_names, main
from ader.config.compose import compose_as
from ader.config.options import GROUPS, options, read_option
from ader.config.schema import SweepConfig, keys
from ader.config.sweep import divide, expand
from ader.metrics import METRICS
from ader.results.record import fields
from ader.testing.subject import Subject
from ader.testing.toy import write_mvtec

ROOT = Path(__file__).parents[2]

#: What a reader has to put in, and what stands for it here: ``{tmp}`` holds a toy dataset, ``{run}`` is a finished run.
PLACEHOLDERS = {
    "RUN": "{run}",
    "MAPS": "{run}/maps",
    "SCORES.csv": "{run}/scores.csv",
    "ARCHIVE": "{tmp}/archive.zip",
    "FOLDER": "{tmp}/toy",
    "SEGMENTS": "{tmp}/toy",
    "DIR": "{tmp}/toy",
    "OUT": "{tmp}/out",
    "my/images": "{tmp}/toy",
    "dataset=NAME": "dataset=mvtec",
    "method=NAME": "method=rd",
    "experiment=NAME": "experiment=demo",
    "recipe=NAME": "recipe=small",
    "benchmarks.NAME": "benchmarks.methods",
    "parity NAME": "parity rd",
    "KIND": "methods",
    "method=color_gaussian": "method=rd",  # tests/examples runs the real one
}

#: Commands that compose no configuration of a run, so that ``--cfg`` is not for them.
NO_CONFIG = ("-m", "sweep", "report", "diff")

PAGES = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for file in ROOT.glob(pattern)
    if file.name != "CHANGELOG.md"  # it tells of commands that are gone
)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Every fenced block of a language, with the page that it stands on."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for code in re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield page.relative_to(ROOT).as_posix(), code


def commands() -> list[str]:
    """Every command line, in blocks and in running text; optional words such as ``[key=value ...]`` are left out."""
    lines = [line for _, code in blocks("bash") for line in code.splitlines()]
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines += re.findall(r"`((?:ader|make|python|torchrun) [^`]+)`", text)
    return sorted({re.sub(r" \[[^\]]*\]", "", line).partition("  #")[0].strip() for line in lines} - {""})


# --- The site


class Page(HTMLParser):
    """What a page links to, what is loaded with it, and its anchors and text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif given.get("src") or (tag == "link" and given.get("href")):
            self.loaded.append(given.get("src") or given["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the built site, by its path in it; building fails where mkdocs has anything to complain about."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        assert config.strict
        build(config)
    return SimpleNamespace(
        folder=folder, pages={str(file.relative_to(folder)): Page(file) for file in folder.rglob("*.html")}
    )


def test_site(site):
    """In one test, so that the site is built once however many processes share the tests."""
    check_pages(site)
    check_names(site)
    check_links(site)


def check_pages(site):
    expected = {
        page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES if (ROOT / "docs") in page.parents
    }
    expected |= {Path(f"methods/{name}.html") for name in options("method")}
    expected |= {Path("changelog.html"), Path("contributing.html"), Path("bench/methods.html")}
    assert {str(path) for path in expected} <= set(site.pages)
    for name, page in site.pages.items():
        assert name == "404.html" or len(page.text.split()) > 100, f"{name} is empty"
        assert "generated:" not in page.text, f"{name}: a part was not made"
        if name.startswith("methods/"):
            assert not re.search(r"typing\.|<class", page.text), f"{name}: a type is not in words"


def check_names(site):
    """Whatever there is stands on its page."""
    for option in options("dataset"):
        assert option in site.pages["datasets.html"].anchors
    for option in options("setting"):
        assert option in site.pages["settings.html"].anchors
    for metric in METRICS:
        assert metric.slug in site.pages["metrics.html"].text
        assert metric.heading in site.pages["metrics.html"].text
    for key in keys():
        assert key.name in site.pages["configuration.html"].text.split()
    for command in command_names():
        assert import_module(f"ader.commands.{command}").USAGE in site.pages["command-line.html"].text
    for group in set(GROUPS) - {"dataset", "method", "setting"}:
        for option in options(group):
            page = "sweeps.html" if group == "launcher" else "configuration.html"
            assert f"{group}={option}" in site.pages[page].text
    for option in options("method"):
        assert option in site.pages["methods/index.html"].text
        text = site.pages[f"methods/{option}.html"].text
        for key in set(read_option("method", option)) - {"name", "defaults", "recipes"}:
            assert f"method.{key}" in text, f"{option}: argument {key} is not documented"
    for field in fields():
        assert field.key in site.pages["results.html"].text


def check_links(site):
    """Every link inside the site leads somewhere, and nothing is loaded from outside."""
    for name, page in site.pages.items():
        outside = [address for address in page.loaded if urlsplit(address).netloc]
        assert not outside, f"{name} loads {outside}"
        for address in [*page.loaded, *page.links]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            base = (site.folder / name).parent
            target = (base / unquote(parts.path)).resolve() if parts.path else site.folder / name
            assert target.exists(), f"{name} links to {address}"
            inside = site.pages.get(str(target.relative_to(site.folder)))
            if inside and parts.fragment and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in inside.anchors, f"{name} links to {address}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if (ROOT / "docs") not in page.parents], ids=lambda page: page.name
)
def test_links_outside_the_site(page):
    """Of README and its like, as a reader of the clone follows them: files, and headings of pages."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for address in links:
        parts = urlsplit(address)
        if parts.scheme:
            continue
        target = page.parent / parts.path
        assert target.exists(), f"{page.name} links to {address}"
        if parts.fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
            assert parts.fragment in slugs, f"{page.name} links to {address}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


# --- Commands


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    """A toy dataset, and the folder where a finished run would be."""
    folder = tmp_path_factory.mktemp("commands")
    write_mvtec(folder / "toy", size=32)
    return folder


@pytest.fixture(scope="module")
def finished(tmp):
    """A finished run on the toy dataset, its maps kept."""
    words = ["dataset=folder", f"dataset.root={tmp / 'toy'}", "method=patchcore", "method.backbone.name=resnet18"]
    words += ["method.backbone.pretrained=false", "image_size=32", "trainer.device=cpu", "trainer.workers=0"]
    words += [f"paths.results={tmp / 'results'}", f"paths.cache={tmp / 'cache'}", "run=run", "save_maps=true"]
    assert main(words) == 0
    (record,) = (tmp / "results").rglob("record.json")
    return record.parent


@pytest.mark.parametrize("line", [line for line in commands() if re.match(r"(\S*/)?ader |torchrun ", line)])
def test_command_composes(line, tmp, request, capsys):
    """What is typed after ``ader`` is a configuration; nothing is run."""
    run = request.getfixturevalue("finished") if "RUN" in line or "MAPS" in line else None
    for text, value in PLACEHOLDERS.items():
        line = re.sub(rf"(?<![\w/]){re.escape(text)}(?![\w/])", value.format(tmp=tmp, run=run), line)
    words = shlex.split(line, comments=True)
    words = words[words.index("-m") + 2 :] if words[0] == "torchrun" else words[1:]
    if words[0] == "-m" and "=" in words[-1]:  # of a sweep its first job
        own, jobs = divide(words[1:])
        compose_as(SweepConfig, own)
        words = list(expand(jobs)[0][0])
        words += [] if any(word.startswith(("method=", "experiment=")) for word in words) else ["method=rd"]
    bare = len(words) == 1 or (words[0] == "data" and len(words) == 2)  # a command's name, as text has it
    if words[0] != "list" and not {"--help", "--cfg"} & set(words):  # a list is printed
        words.append("--help" if (bare and "=" not in words[0]) or words[0] in NO_CONFIG else "--cfg")
    assert main(words) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_a_wrong_command_is_seen(tmp, request, capsys):
    with pytest.raises(AssertionError, match="datset"):
        test_command_composes("ader datset=mvtec method=rd", tmp, request, capsys)


@pytest.mark.parametrize(
    "line", [line for line in commands() if line.startswith(("make ", "python ", ".venv/bin/python "))]
)
def test_other_command_exists(line):
    """Targets of the Makefile, modules and scripts are there."""
    for text in ("benchmarks.NAME", "parity NAME"):
        line = line.replace(text, PLACEHOLDERS[text])
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif words[1] == "-m" and words[2] == "parity":
        assert find_spec(f"parity.{words[3]}") or words[3] == "x", line
    elif words[1] == "-m":
        assert find_spec(words[2]), line
        assert all((ROOT / word).exists() for word in words[3:] if "/" in word and word != "my/images"), line
    else:
        assert (ROOT / words[1]).is_file(), line


# --- Python


@pytest.mark.parametrize(("page", "code"), list(blocks("python")))
def test_python_runs(page, code):
    """Every block of Python runs by itself; a method that it defines trains."""
    names: dict = {"__name__": "documentation"}
    exec(compile(code, page, "exec"), names)
    if "Restorer" in names:
        Subject(names["Restorer"], {"batch_size": 2, "epochs": 1}).fit()


def test_every_kind_of_block_was_found():
    assert len(commands()) > 40
    assert len(list(blocks("python"))) >= 4
