"""What is shipped: types, files of the source distribution, a version that the changelog knows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import ader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_types_are_shipped():
    """The marker is in the package, and the wheel takes the package whole."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert (ROOT / "ader" / "py.typed").is_file()
    assert wheel["packages"] == ["ader"]
    assert not {"exclude", "include", "only-include"} & set(wheel)


def test_source_distribution_has_what_the_tests_need():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in included)
    assert {"docs", "examples", "tests", "mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"} <= set(included)


def test_changelog_says_which_numbers_are_comparable():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert next(iter(sections)) == ader.__version__ == PROJECT["project"]["version"]
    assert all("**Numbers:" in section for section in sections.values())


def test_distribution_has_a_name_of_its_own():
    """``ader`` on the package index is another project: nothing may tell anybody to install that."""
    assert PROJECT["project"]["name"] == "ader-bench"
    places = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.*")]
    places += [*ROOT.glob("ader/**/*.py"), *ROOT.glob("configs/**/*.yaml"), ROOT / "pyproject.toml"]
    wrong = re.compile(
        r"""pip install [^\n`]*['" ]ader(\[|['"`\s]|$)|["']ader(\[\w|[<>=~]=?\s*\d)|^dependencies = \["ader"\]""",
        re.MULTILINE,
    )
    assert len(places) > 100
    for text in ("pip install 'ader[coco]'", 'dependencies = ["ader>=0.2"]', 'dependencies = ["ader"]'):
        assert wrong.search(text)
    assert not [str(place) for place in places if wrong.search(place.read_text(encoding="utf-8"))]
