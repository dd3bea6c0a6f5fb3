"""How far a window can tell: little where a face was seen, or a voice heard, for a moment only.

At the start the heads are as sure as later, and less often right. On voices never heard, logits are best
multiplied by 0.2 in the first 0.8 s, by 0.6 at 1 s and by no less than later from 1.6 s. It knows nothing of
models and labels. Data leaves it as factors.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.window import Window


def evidence(windows: Sequence[Window], window_s: float, sure_after_s: float) -> NDArray[np.float64]:
    """(windows, 3) factors 0..1 of what the heads say, in the order of `engine.bundle.HEADS`.

    They rise in a straight line with the time really seen (video head), really heard (audio head), or the
    longer of both (fused head), to 1 at `sure_after_s` seconds. Where there was nothing it is 0: all labels
    are equal then. With `sure_after_s` 0 every factor is 1.
    """
    if sure_after_s == 0:
        return np.ones((len(windows), 3))
    shares = np.array([(window.valid_video, window.valid_audio) for window in windows]).reshape(-1, 2)
    seconds = window_s * np.column_stack((shares, shares.max(1)))
    return np.minimum(1, seconds / sure_after_s)
