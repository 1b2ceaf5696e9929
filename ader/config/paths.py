"""The folders that hold where no configuration is composed; ``configs/paths/default.yaml`` is where they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ader.config.options import read_option

#: ``${oc.env:ADER_DATA,data}``: a variable of the environment and what holds without it, perhaps in quotation marks.
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),\"?([^\"}]*)\"?\}")


def default_folder(key: str) -> Path:
    """``paths.<key>`` without overrides: the environment's, or the default."""
    stated = str(read_option("paths", "default")[key])
    return Path(FROM_ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[2]), stated)).expanduser()
