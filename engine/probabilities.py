"""From logits to probabilities, in double precision: the one place where it is done.

It knows nothing of heads, labels or temperatures. Data leaves it as arrays of the same shape.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.types import Float32


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """(..., L) logits to (..., L) float64 logarithms of probabilities."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def softmax(logits: ArrayLike) -> Float32:
    """(..., L) logits to (..., L) float32 probabilities."""
    return np.exp(log_softmax(logits)).astype(np.float32)
