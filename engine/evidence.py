"""How far a window can tell: little where a face was seen, or a voice heard, for a moment only.

At the start the heads are as sure as later, and less often right. On voices never heard, logits are best
multiplied by 0.2 in the first 0.8 s, by 0.6 at 1 s and by no less than later from 1.6 s; a face tells sooner.
It knows nothing of models and labels. Data leaves it as factors.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.bundle import SENSES

SOONEST_S = 1e-3


def evidence(shares: ArrayLike, window_s: float, sure_after_s: Mapping[str, float]) -> NDArray[np.float64]:
    """(N, 3) factors 0..1 of what the heads say of N windows, in the order of `engine.bundle.HEADS`.

    shares: (N, 2), of a window of `window_s` seconds how much a face was seen, a voice heard.

    They rise in a straight line with the time really seen (video head) or heard (audio head), to 1 at so many
    seconds of that sense; the fused head has the larger of both. Where there was nothing it is 0:
    all labels are equal then. Without any such time every factor is 1.
    """
    if not sure_after_s:
        return np.ones((len(np.asarray(shares)), 3))
    after_s = np.maximum([sure_after_s[sense] for sense in SENSES], SOONEST_S)
    factors = np.minimum(1, window_s * np.asarray(shares) / after_s)
    return np.column_stack((factors, factors.max(1)))
