"""The live view: everything that a person needs is on the screen, at any width, and it is calm."""

import io
from itertools import pairwise

import pytest
from feed_peers import emotion, status
from rich.console import Console

from realtime.view import MOST_STREAMS, REDRAW_NS, View, line


def screen(width: int) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=60,
        force_terminal=True,
        color_system=None,
        legacy_windows=False,
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(view: View, width: int) -> str:
    console = screen(width)
    console.print(view.render())
    return text(console)


def test_everything_is_on_the_screen() -> None:
    view = View(screen(100))
    view.show(emotion(), 0)
    view.show(status(drops={"late frames": 3, "windows skipped": 0}), 1)
    shown = drawn(view, 100)
    for word in (
        "main",
        "happy",
        "50%",
        "fused",
        "video",
        "audio",
        "seen 95%",
        "heard 100%",
        "30 pictures/s",
    ):
        assert word in shown
    for word in ("5.0 scores/s", "p95 48", "late frames 3", "camera 1", "missing: audio", "demo", "degraded"):
        assert word in shown
    assert "windows skipped" not in shown
    assert "no microphone" in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_it_fits_any_width(width: int) -> None:
    view = View(screen(width))
    view.show(emotion(), 0)
    view.show(status(), 1)
    lines = drawn(view, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 40
    if width >= 40:
        assert all(any(label in row for row in lines) for label in emotion().labels)


def test_a_higher_score_has_a_longer_bar() -> None:
    view = View(screen(60))
    view.show(emotion(), 0)
    rows = drawn(view, 60).splitlines()  # without colour only the filled part of a bar is drawn
    cells = [
        next(row for row in rows if label in row and "%" in row).count("━") for label in emotion().labels
    ]
    scores = list(emotion().scores.values())
    for one, other in pairwise(sorted(range(len(cells)), key=lambda place: scores[place])):
        assert cells[one] <= cells[other]
    assert max(cells) > 2 * sorted(cells)[-2]


def test_it_redraws_at_most_ten_times_a_second() -> None:
    console = screen(80)
    with View(console) as view:
        draws = 0
        for millisecond in range(0, 1000, 10):
            before = len(text(console))
            view.show(emotion(seq=millisecond), millisecond * 1_000_000)
            draws += len(text(console)) > before
    assert draws == 1_000_000_000 // REDRAW_NS


def test_the_last_message_is_drawn_in_the_end() -> None:
    console = screen(80)
    with View(console) as view:
        view.show(emotion(), 0)
        view.show(status(state="ended"), 1)
        assert "ended" not in text(console)
    assert "ended" in text(console)


def test_nothing_yet_and_nobody_there() -> None:
    view = View(screen(80))
    assert "Waiting" in drawn(view, 80)
    view.show(emotion(top=None, face=None, track=-1, valid={"video": 0.0, "audio": 0.0}), 0)
    shown = drawn(view, 80)
    assert "seen 0%" in shown
    assert "face" not in shown
    assert "main  -" in shown


def test_several_streams_are_bounded() -> None:
    view = View(screen(80))
    for number in range(MOST_STREAMS + 3):
        view.show(emotion(stream=f"door{number}"), number * REDRAW_NS)
    shown = drawn(view, 80)
    assert f"door{MOST_STREAMS - 1} " in shown
    assert f"door{MOST_STREAMS} " not in shown


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_of_several_streams_each_has_a_line(width: int) -> None:
    view = View(screen(width))
    view.show(emotion(stream="lobby"), 0)
    view.show(status(stream="lobby", missing=(), drops={}, restarts={}, state="running"), 1)
    view.show(emotion(stream="desk", top=None), 2)
    view.show(status(stream="desk", overload=0.4), 3)
    rows = drawn(view, width).splitlines()
    assert len(rows) == 5, "two lines, a heading and a frame"
    assert max(map(len, rows)) <= width
    if width >= 80:
        assert all(
            word in rows[2] for word in ("lobby", "happy 50%", "95%", "100%", "26 ms", "5.0", "running")
        )
        assert all(word in rows[3] for word in ("desk", "-", "degraded"))


def test_of_several_faces_each_has_a_line_until_it_has_left() -> None:
    view = View(screen(80))
    for track in (0, 3):
        view.show(emotion(stream="lobby", track=track, faces=4), track)
    view.show(status(stream="lobby"), 5)
    shown = drawn(view, 80)
    assert "lobby/0" in shown
    assert "lobby/3" in shown
    assert line(emotion(stream="lobby", track=3, faces=4)).startswith("lobby/3  ")
    later = emotion(stream="lobby", track=3, faces=4, t_ns=emotion().t_ns + 2_000_000_000)
    view.show(later, 6)
    assert "lobby/0" not in drawn(view, 80)


def test_overload_is_said() -> None:
    assert "overloaded: 40% of the windows skipped" in line(status(overload=0.4))
    assert "overloaded" not in line(status(overload=0.0))


def test_a_message_cannot_steer_the_terminal() -> None:
    nasty = status(source={"camera": "\x1b[2Jnasty\x07", "microphone": None})
    view = View(screen(80))
    view.show(nasty, 0)
    for shown in (drawn(view, 80), line(nasty)):
        assert "\x1b" not in shown
        assert "\x07" not in shown


def test_plain_lines() -> None:
    assert line(emotion()) == "main  1234.568 s  happy 0.50  seen 95%  heard 100%  26 ms"
    assert line(emotion(top=None, latency_ms={})) == "main  1234.568 s  -  seen 95%  heard 100%"
    assert line(status()).startswith("main  degraded  30 pictures/s  5.0 scores/s")
