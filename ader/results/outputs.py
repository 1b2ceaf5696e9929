"""What a result holds besides the tables per category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # brings pydantic's types to a program that only watches others
    from ader.results.schema import Record

#: How much of a test a gallery shows, from nothing to every image.
Kind = Literal["off", "worst", "all"]
KINDS: tuple[Kind, ...] = ("off", "worst", "all")


@dataclass(frozen=True)
class Outputs:
    """What a result holds besides the tables per category, because it was asked for.

    Attributes:
        maps: every anomaly map.
        by_defect: a table per kind of defect.
        gallery: pictures of how many test images.
    """

    maps: bool = False
    by_defect: bool = False
    gallery: Kind = "off"

    @classmethod
    def of(cls, result: Record | None) -> Outputs:
        """Those of a record; none where there is no record."""
        return cls() if result is None else cls(result.maps, result.by_defect, result.gallery)

    def __or__(self, other: Outputs) -> Outputs:
        gallery = max(self.gallery, other.gallery, key=KINDS.index)
        return Outputs(self.maps or other.maps, self.by_defect or other.by_defect, gallery)

    def __contains__(self, other: Outputs) -> bool:
        """Whether all of the other is here."""
        return self | other == self
