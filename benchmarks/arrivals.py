"""When the crops and the sound of many cameras come: an open-loop schedule, spread evenly.

Nothing of it depends on how fast anything is answered. Pure functions; times are nanoseconds from the start.
It knows nothing of engines or clocks. Data leaves it as `Arrival`s in the order of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.types import SECOND_NS

Kind = Literal["block", "crop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """What each stream brings. tick_hz: crops a second; score_hz: scores a second; blocks_hz: of sound.

    delay_ns: how long after its tick has ended a crop comes (capture, transfer, finding the face). Sound
    comes as soon as a block is full, so it is there when the crop is: a window waits for nothing but its last
    crop.
    """

    tick_hz: int = 15
    score_hz: int = 5
    blocks_hz: int = 50
    delay_ns: int = SECOND_NS // 30


class Arrival(NamedTuple):
    """Something comes. number: of the crop or block in its stream, from 0."""

    at_ns: int
    stream: int
    kind: Kind
    number: int


def phase_ns(stream: int, streams: int, rhythm: Rhythm) -> int:
    """When a stream's first tick begins: all of them lie evenly in the time between two scores of one."""
    return stream * SECOND_NS // (rhythm.score_hz * streams)


def crop_ns(number: int, rhythm: Rhythm) -> int:
    """When a stream's crop comes, after its first tick's beginning."""
    return (number + 1) * SECOND_NS // rhythm.tick_hz + rhythm.delay_ns


def arrivals(
    streams: int, seconds: float, rhythm: Rhythm, mine: Sequence[int] | None = None
) -> list[Arrival]:
    """All that comes in `seconds` from `streams` cameras, or from those that are `mine`, in order of time."""
    end_ns = round(seconds * SECOND_NS)
    found: list[Arrival] = []
    for stream in range(streams) if mine is None else mine:
        begin_ns = phase_ns(stream, streams, rhythm)
        for number in range(round(seconds * rhythm.tick_hz) + 1):
            found.append(Arrival(begin_ns + crop_ns(number, rhythm), stream, "crop", number))
        for number in range(round(seconds * rhythm.blocks_hz) + 1):
            found.append(
                Arrival(begin_ns + (number + 1) * SECOND_NS // rhythm.blocks_hz, stream, "block", number)
            )
    return sorted(each for each in found if each.at_ns < end_ns)
