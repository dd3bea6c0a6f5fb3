"""A decoded picture as the engine takes it: BGR, upright, with square pixels.

It knows nothing of containers or times, and needs no decoder: it takes PyAV's pictures as they are. Data
leaves it as arrays.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.types import UInt8

NEAR = 0.02
"""A picture stretched by less than this is left as it is: no face looks different for it."""
MOST = 4
"""A stretch beyond this is a broken header, not an anamorphic picture."""


def upright(decoded: Any, aspect: Fraction | None = None) -> UInt8:
    """(H, W, 3) uint8, BGR, of an `av.VideoFrame`, as a player would show it.

    aspect: width by height of a stored pixel, as the stream says (`sample_aspect_ratio`); None or 0: square.
        Pictures are stretched to square pixels, never shrunk. The display matrix (a phone held upright, a
        front camera that mirrors) counts in quarter turns and mirrorings.
    """
    width, height = decoded.width, decoded.height
    if aspect and abs(aspect - 1) > NEAR and 1 / MOST <= aspect <= MOST:
        width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    image: UInt8 = decoded.to_ndarray(format="bgr24", width=width, height=height)
    matrix = _display_matrix(decoded)
    if matrix is None:
        return image
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(decoded: Any) -> NDArray[np.int32] | None:
    """(2, 2): where the stored picture's x (first row) and y (second row) axes point when shown."""
    for side in decoded.side_data:
        if side.type.name == "DISPLAYMATRIX":
            matrix: NDArray[np.int32] = np.frombuffer(side, np.int32)[:9].reshape(3, 3)[:2, :2]
            return matrix
    return None
