"""The checks that ader's own methods pass."""

from importlib.resources import files
from pathlib import Path

import pytest

from ader.testing.method_checks import Check, method_checks
from ader.testing.subject import Subject

CONFIG = Path(str(files("color_gaussian.configs") / "method" / "color_gaussian.yaml"))


@pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
def test_color_gaussian(check: Check) -> None:
    check(Subject.named("color_gaussian", config=CONFIG))
