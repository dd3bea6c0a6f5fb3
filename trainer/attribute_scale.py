"""Continuous attributes on the scale of the network, -1 to 1, whatever scale they were rated on."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.clip_tokens import Clips
from trainer.data.sound import Voices

Ranges = Mapping[str, Sequence[float]]
"""From where to where an attribute is rated, where that is not -1 to 1."""


Rated = TypeVar("Rated", float, NDArray[np.floating])


def on_scale(rated: Rated, low: float, high: float) -> Rated:
    """What was rated from low to high, from -1 to 1."""
    return (rated - low) / (high - low) * 2 - 1


def scaled(
    names: Sequence[str], values_NA: NDArray[np.floating], wanted: Sequence[str], ranges: Ranges
) -> NDArray[np.float32]:
    """(N, wanted) float32: the columns of `wanted` on the scale -1..1, NaN where not known.

    names: of the columns of `values_NA`; columns of none are not known. Raises ValueError for values beyond
    the range.
    """
    columns = np.full((len(values_NA), len(wanted)), np.nan, np.float32)
    for place, name in enumerate(wanted):
        if name not in names:
            continue
        low, high = ranges.get(name, (-1.0, 1.0))
        column = values_NA[:, list(names).index(name)]
        if name in ranges:
            column = on_scale(column, low, high)
        if (np.abs(column) > 1 + 1e-5).any():
            raise ValueError(
                f"The attribute {name!r} has values beyond {low:g} and {high:g}: say in attribute_ranges "
                "from where to where it goes."
            )
        columns[:, place] = column
    return columns


def rated(
    voices: Voices, clips: Clips, wanted: Sequence[str], ranges: Ranges
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(takes, A) and (clips, A) float32: attributes of voices and of moving faces, as `scaled`.

    Raises ValueError as `scaled`, and where nobody rated an attribute.
    """
    has = sorted({*voices.attribute_names.tolist(), *clips.attribute_names.tolist()})
    for name in wanted:
        if name not in has:
            raise ValueError(f"The voices have no attribute {name!r}; they have {', '.join(has) or 'none'}.")
    return (
        scaled(voices.attribute_names.tolist(), voices.attributes, wanted, ranges),
        scaled(clips.attribute_names.tolist(), clips.attributes, wanted, ranges),
    )
