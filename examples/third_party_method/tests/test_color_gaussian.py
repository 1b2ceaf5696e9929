"""The checks that ader's own methods pass."""

import pytest

from ader.testing.method_checks import Check, method_checks
from ader.testing.subject import Subject


@pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
def test_color_gaussian(check: Check) -> None:
    check(Subject.named("color_gaussian"))
