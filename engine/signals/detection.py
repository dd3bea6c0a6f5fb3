"""What a face finder gives, and what it must be able to do.

The contract between those that find faces (`engine.signals.finder`, `.yunet`) and those that follow them.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine.types import Float32, UInt8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """A face in a picture.

    box: x, y, width, height in pixels; it may reach beyond the picture.
    points: (5, 2) float32, x and y in pixels, ordered as `engine.signals.align.TEMPLATE`.
    confidence: 0..1. followed: only looked at where it was expected, not found anew.
    """

    box: tuple[float, float, float, float]
    points: Float32
    confidence: float
    followed: bool = False


class FaceFinder(Protocol):
    """Finds the faces of one picture; remembers nothing about it. digest: SHA-256 of what it runs."""

    name: str
    digest: str

    def find(self, image: UInt8) -> list[Detection]:
        """The faces in `image`, (H, W, 3) uint8 BGR, the surest first."""
        ...


@runtime_checkable
class FaceFollower(Protocol):
    """A finder that contents itself with grey pictures and can also look closely where a face is expected."""

    name: str
    digest: str

    def find(self, image: UInt8) -> list[Detection]:
        """The faces in `image`, (H, W, 3) uint8 BGR or (H, W) uint8 grey, the surest first."""
        ...

    def follow(self, image: UInt8, face: Detection) -> Detection | None:
        """The face at the place of `face`, in (H, W) uint8 grey, or None where there is none."""
        ...
