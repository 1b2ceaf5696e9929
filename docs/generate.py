"""What the documentation takes from the code: a hook of mkdocs, run whenever the site is built.

A page says ``<!-- generated: PART [WORD] -->`` on a line of its own where a function of ``PARTS`` puts Markdown. Whole
pages come from ``pages``: one for each method, the measured tables of ``results/bench``, changelog and contributing.
Nothing that is generated is committed.
"""

from __future__ import annotations

import contextlib
import html
import inspect
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ader.__main__ import main as ader
from ader.config.options import comments, config_folder, option_file, options, read_option
from ader.config.paths import FROM_ENVIRONMENT
from ader.config.schema import DataConfig, RunConfig, ScoreConfig, SweepConfig, keys
from ader.data.counts import images as count_images
from ader.methods._description import describe
from ader.metrics import METRICS
from ader.results.record import fields

ROOT = Path(__file__).resolve().parents[1]

MARKER = re.compile(r"^<!-- generated: (\w+)(?: ([\w./]+))? -->$", re.MULTILINE)

#: Keys of a dataset's YAML that every dataset has.
COMMON = ("name", "root", "categories", "check_counts", "counts", "about", "defaults")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the generated pages into the navigation."""
    nav = {title: entry for section in config.nav or [] for title, entry in section.items()}
    nav["Methods"] += [f"methods/{name}.md" for name in options("method")]
    nav["Measured"] += [f"bench/{name}" for name in measured()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file in ``docs/`` has."""
    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what the page's markers ask for."""

    def fill(found: re.Match[str]) -> str:
        part, word = found.groups()
        if part not in PARTS:
            raise PluginError(f"{page.file.src_uri}: there is no part {part!r}: choose from {', '.join(PARTS)}")
        return PARTS[part](*[word] if word else [])

    return MARKER.sub(fill, markdown)


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of every generated page."""
    for name in options("method"):
        yield f"methods/{name}.md", method_page(name)
    for name, text in measured().items():
        yield f"bench/{name}", text
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        yield f"{name.lower()}.md", text.replace("](docs/", "](").replace("](CHANGELOG.md", "](changelog.md")


def measured() -> dict[str, str]:
    """The tables that benchmarks have left in ``results/bench``, by path; those without a title get one."""
    folder, found = ROOT / "results" / "bench", {}
    for file in sorted(folder.rglob("*.md")):
        name, text = file.relative_to(folder).as_posix(), file.read_text(encoding="utf-8")
        title = name.removesuffix(".md").replace("_", " ").replace("/", ", ")
        found[name] = text if text.startswith("# ") else f"# {title}\n\n{text}"
    return found


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown of one line."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines) + "\n"


def prose(text: str) -> str:
    """Text of a docstring or comment as Markdown of one line: what is not code is taken literally."""
    parts = re.split(r"``?([^`]+)``?", " ".join(text.split()))
    literal = [re.sub(r"([*\[\]|])", r"\\\1", html.escape(part, quote=False)) for part in parts]
    return "".join(code(parts[place]) if place % 2 else literal[place] for place in range(len(parts)))


def code(value: Any) -> str:
    """A value as it is typed, in code marks; strings bare."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text else '`""`'


def whole_file(path: str) -> str:
    """A file of the repository as a block of code."""
    language = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}[Path(path).suffix]
    return f"```{language}\n{(ROOT / path).read_text(encoding='utf-8')}```\n"


# --- Command line and configuration


def help_text(command: str = "") -> str:
    """What ``ader [COMMAND] --help`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        ader([*[command] * bool(command), "--help"])
    return f"```text\n{printed.getvalue()}```\n"


def option_table(group: str) -> str:
    """The options of a group of the configuration, and what each says beside its bases."""
    rows = []
    for name in options(group):
        values = yaml.safe_load(option_file(group, name).read_text(encoding="utf-8"))
        chosen = [entry for entry in values.pop("defaults", []) if entry != "_self_"]
        bases = [f"as {code(entry)}" for entry in chosen if isinstance(entry, str)]
        groups = {
            key.rpartition("/")[2]: option
            for entry in chosen
            if isinstance(entry, dict)
            for key, option in entry.items()
        }
        given = [code(f"{key}={value}") for key, value in flat(groups | values) if value is not None]
        rows.append([code(f"{group}={name}"), prose(opening(group, name)), " ".join([*bases, *given])])
    return table(["option", "what it is", "what it sets"], rows)


def key_table(root: str = "run") -> str:
    """Every key of what ``configs/<root>.yaml`` composes: what it decides, and its value when nothing is said.

    Of others than a run only the own keys: groups are the same.
    """
    (config,) = (each for each in (RunConfig, ScoreConfig, DataConfig, SweepConfig) if root == each.ROOT)
    stated = dict(flat(yaml.safe_load((config_folder() / f"{root}.yaml").read_text(encoding="utf-8"))))
    for entry in stated.pop("defaults"):
        for group, option in entry.items() if isinstance(entry, dict) else ():
            if option not in (None, "???"):
                stated |= {f"{group}.{key}": value for key, value in flat(read_option(group, option))}
    rows = []
    for key in keys(config):
        if root == "run" or "." not in key.name or key.name.startswith("launcher."):
            default = code(stated[key.name]) if key.name in stated else ""
            # ${oc.env:ADER_DATA,data}: what holds where the variable is not set, and the variable
            default = FROM_ENVIRONMENT.sub(r"\2 (\1)", default)
            rows.append([code(key.name), prose(key.type), default, key.role, "yes" * key.at_eval, prose(key.doc)])
    return table(["key", "values", "default", "decides", "at `ader eval`", "meaning"], rows)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, with dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def opening(group: str, name: str) -> str:
    """The first comment of an option's file."""
    lines = option_file(group, name).read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")


# --- Datasets, settings, metrics


def dataset_tables() -> str:
    """All datasets in one table, then a section for each."""
    rows, sections = [], []
    for name in options("dataset"):
        values = read_option("dataset", name)
        about = values.get("about") or {}
        images = about.get("images") or count_images(values.get("counts") or {})
        many = str(len(about.get("categories") or "") or "")
        rows.append([f"[`{name}`](#{name})", prose(about.get("title") or ""), many, f"{images:,}" if images else ""])
        sections.append(_dataset(name, values, about))
    return table(["dataset", "title", "categories", "images"], rows) + "\n" + "\n".join(sections)


def _dataset(name: str, values: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Title, facts and own keys of one dataset."""
    facts = [
        ("paper", about.get("paper")),
        ("license", about.get("license")),
        ("where it is read from", values["root"] if values["root"] != "???" else "`dataset.root=DIR`"),
        ("categories", ", ".join(map(str, about.get("categories") or []))),
        ("how to get it", about.get("get")),
    ]
    lines = [f"### {name} {{ #{name} }}", "", prose(opening("dataset", name)), ""]
    lines += [f"- {label}: {prose(str(text))}" for label, text in facts if text]
    if about.get("homepage"):
        lines.append(f"- homepage: <{about['homepage']}>")
    own = {key: value for key, value in values.items() if key not in COMMON}
    return "\n".join([*lines, "", _own_keys("dataset", name, own)])


def _own_keys(group: str, name: str, values: Mapping[str, Any]) -> str:
    """A table of the keys that only this option has; empty where it has none."""
    said = comments(group, name)
    rows = [[code(f"{group}.{key}"), code(value), prose(said.get(key, ""))] for key, value in values.items()]
    return table(["key", "value", "meaning"], rows) if rows else ""


def setting_sections() -> str:
    """A section for each setting, with its keys."""
    sections = []
    for name in options("setting"):
        values = {key: value for key, value in read_option("setting", name).items() if key not in ("name", "defaults")}
        sections.append(f"### {name} {{ #{name} }}\n\n{prose(opening('setting', name))}\n")
        sections.append(_own_keys("setting", name, values))
    return "\n".join(sections)


def metric_table(group: str) -> str:
    """The metrics of one group (``image``, ``object``, ``pixel``, ``average``)."""
    rows = [[code(each.slug), each.heading, prose(each.description)] for each in METRICS if each.group == group]
    return table(["metric", "heading", "definition"], rows)


# --- Methods


def method_table() -> str:
    """All methods in one table."""
    rows = []
    for name in options("method"):
        described = describe(name)
        tags, recipes = described.method_class.tags, ", ".join(map(code, described.recipes))
        gives = "scores and maps" if tags.maps else "scores"
        learns = {"normal": "normal images", "image": "image labels", "pixel": "masks"}[tags.supervision]
        what = re.split(r"(?<=\w[.])\s|\n\n", inspect.cleandoc(described.method_class.__doc__ or ""))[0]
        rows.append([f"[`{name}`]({name}.md)", prose(what), gives, learns, prose(tags.paper), recipes])
    return table(["method", "what it is", "gives", "learns from", "paper", "other recipes"], rows)


def method_page(option: str) -> str:
    """Everything about one method: its arguments, its recipes, what it was compared with."""
    described = describe(option)
    method = described.method_class
    about = re.split(r"^Args:", inspect.cleandoc(described.method_class.__doc__ or ""), flags=re.MULTILINE)[0]
    lines = [
        f"# {option}",
        prose(about),
        prose(opening("method", option)),
        f"```bash\nader method={option} dataset=mvtec\n```",
        f"Reference: {prose(method.tags.reference)}. Speed, memory and differences beside it are "
        "[measured](../bench/methods.md).",
        "## Arguments",
        table(
            ["key", "values", "recipe", "meaning"],
            [
                [code(each.key), prose(each.values), code(each.default), prose(each.meaning)]
                for each in described.arguments
            ],
        ),
    ]
    for name, changes in described.recipes.items():
        rows = [[code(key), code(value)] for key, value in changes.items()]
        lines += [f"## recipe={name}", table(["key", "value"], rows)]
    lines += ["## Source and differences", _docstring(inspect.getmodule(method))]
    return "\n\n".join(lines) + "\n"


def _docstring(module: Any) -> str:
    """A method file's docstring as Markdown, the legend of shapes apart."""
    paragraphs = []
    for text in inspect.cleandoc(module.__doc__ or "").split("\n\n"):
        if text.startswith("Shapes in names"):
            continue
        items = re.split(r"\n(?=- |Upstream: |Paper: )", text)
        paragraphs += [f"- {prose(item[2:])}" if item.startswith("- ") else f"\n{prose(item)}\n" for item in items]
    return "\n".join(paragraphs)


# --- The record


def record_table() -> str:
    """The fields of ``record.json``, groups before what they hold."""
    return table(
        ["key", "value", "meaning"], [[code(each.key), prose(each.type), prose(each.description)] for each in fields()]
    )


def bench_table(name: str) -> str:
    """A measured table of ``results/bench``, as it stands there."""
    return (ROOT / "results" / "bench" / f"{name}.md").read_text(encoding="utf-8")


PARTS: Mapping[str, Callable[..., str]] = {
    "bench": bench_table,
    "file": whole_file,
    "help": help_text,
    "options": option_table,
    "keys": key_table,
    "datasets": dataset_tables,
    "settings": setting_sections,
    "metrics": metric_table,
    "methods": method_table,
    "record": record_table,
}
