"""The largest count that holds, by as few trials as may be.

It knows nothing of what is tried. Data leaves it as the next count to try, and in the end as `held`.
"""

from dataclasses import dataclass

FINENESS = 16
"""The answer is known to one part in so many."""
CAREFUL = 0.5
"""Of what the last trial's load lets hope for, as much is dared at once."""


@dataclass(slots=True)
class Search:
    """Ever larger counts until one fails, then halving between the two; `most` bounds it."""

    most: int
    held: int = 0
    failed: int | None = None
    _daring: int = 1

    def next(self) -> int | None:
        """What to try; None: it is known."""
        if self.failed is None:
            return None if self.held >= self.most else min(self._daring, self.most)
        if self.failed - self.held <= max(1, self.held // FINENESS):
            return None
        return (self.held + self.failed) // 2

    def told(self, count: int, holds: bool, load: float) -> None:
        """What became of a trial. load: the share of what there is that it took, above 0."""
        if holds:
            self.held = max(self.held, count)
            self._daring = max(2 * count, int(CAREFUL * count / max(load, 1e-3)))
        else:
            self.failed = count if self.failed is None else min(self.failed, count)
