"""Archives that datasets come in: fetching them, verifying them, and unpacking them without trusting them."""

from ader.archives.disk import Check, Progress
from ader.archives.download import checksum, download, verify
from ader.archives.unpack import unpack

__all__ = ["Check", "Progress", "checksum", "download", "unpack", "verify"]
