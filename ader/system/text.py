"""Text that others wrote, as it may be shown."""

from __future__ import annotations

import re

#: What would rule a terminal or a page instead of standing there: control characters (C0 but ends of lines, C1), other
#: separators of lines, and marks that change the direction of what follows.
_RULING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def clean(text: str) -> str:
    r"""The text, in which everything is spelled out (as ``\x1b``) that controls a terminal or is no character.

    Names of files, categories and defects are whatever a folder holds: escape codes, or halves of pairs where they are
    not UTF-8. Ends of lines stay.
    """
    whole = text.encode(errors="backslashreplace").decode()
    return _RULING.sub(lambda found: repr(found[0])[1:-1], whole)
