"""Archives that datasets come in: fetching them, verifying them, and unpacking them without trusting them."""

from ader.obtaining.disk import Check, Progress
from ader.obtaining.download import checksum, download, verify
from ader.obtaining.unpack import unpack

__all__ = ["Check", "Progress", "checksum", "download", "unpack", "verify"]
