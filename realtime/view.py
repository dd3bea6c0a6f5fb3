"""The live view for a person at a terminal: scores as bars, rates, latency, drops, what is missing.

One stream has all of that; of several, or of several faces, each has a line.

It takes decoded messages and the time as an argument, and knows nothing about sockets, workers or the model.
Data leaves it on the screen; `Aside` does that from a thread of its own. Where the output is no terminal,
`line` gives one plain line a message.
"""

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.types import SECOND_NS
from realtime.wire import HEADS, Emotion, Message, Status, subject

REDRAW_NS = 100_000_000
MOST_STREAMS = 16
LEFT_NS = SECOND_NS
"""A face of which no window came for so long has left."""
WAITING_LINES = 100
CLOSING_S = 0.5
"""So long the end waits for a terminal to take the last picture."""
_WIDTH = 80
_LEAD_CELLS = 22
_HEAD_CELLS = 9
_FAINT = "bright_black"
_STATE_STYLE = {"starting": _FAINT, "running": "green", "degraded": "yellow", "ended": _FAINT}


@dataclass(slots=True)
class _Stream:
    """The newest emotion and status of a stream, and, where it has several faces, of each the newest."""

    emotion: Emotion | None = None
    status: Status | None = None
    faces: dict[str, Emotion] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Take in one message; faces of which nothing came with the newest windows have left."""
        if isinstance(message, Status):
            self.status = message
            return
        self.emotion = message
        if message.faces is not None:
            self.faces[subject(message)] = message
            left = [name for name, each in self.faces.items() if message.t_ns - each.t_ns > LEFT_NS]
            for name in left:
                del self.faces[name]


class View:
    """Redraws at most ten times a second; `show` is to be called with every message.

    Holds the newest emotion and status of at most `MOST_STREAMS` streams; further streams are not shown.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._streams: dict[str, _Stream] = {}
        self._held = threading.Lock()
        self._drawn_ns: int | None = None
        # With a console of its own it has nothing to do with what is printed elsewhere.
        bare = console is None
        self._live = Live(
            self.render(),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=bare,
            redirect_stderr=bare,
        )

    @staticmethod
    def wanted() -> bool:
        """True when stdout is a terminal that can redraw."""
        return sys.stdout.isatty() and not Console().is_dumb_terminal

    def show(self, message: Message, now_ns: int) -> None:
        """Take in one message; draw, unless that was less than `REDRAW_NS` ago."""
        self.take(message)
        self.draw(now_ns)

    def take(self, message: Message) -> None:
        """Take in one message, and draw nothing."""
        with self._held:
            if message.stream in self._streams or len(self._streams) < MOST_STREAMS:
                self._streams.setdefault(message.stream, _Stream()).take(message)

    def draw(self, now_ns: int) -> None:
        """Draw what is held, unless that was done less than `REDRAW_NS` ago. Waits for the terminal."""
        if self._drawn_ns is None or now_ns - self._drawn_ns >= REDRAW_NS:
            self._drawn_ns = now_ns
            self._live.update(self.render(), refresh=True)

    def say(self, text: str) -> None:
        """A line for the person, above the view."""
        self._console.print(Text(_safe(text)))

    def render(self) -> RenderableType:
        """What is on the screen now."""
        with self._held:
            if not self._streams:
                return Text("Waiting for the first scores ...", style="dim")
            width = min(self._console.width, _WIDTH)
            if len(self._streams) > 1 or any(held.faces for held in self._streams.values()):
                return _overview(self._streams, min(self._console.width, 2 * _WIDTH))
            return Group(*(_panel(name, held, width) for name, held in self._streams.items()))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self.render(), refresh=True)
        self._live.stop()


class Aside:
    """A `View` drawn by a thread of its own: whoever calls `show` or `say` never waits for the terminal.

    A terminal may take nothing for as long as it likes (Ctrl-S, a stalled link). Until it does again the
    newest state waits to be drawn, and the newest `WAITING_LINES` lines to be written; older ones are lost.
    """

    def __init__(self, terminal: TextIO) -> None:
        # Not `terminal` itself: a thread that waits in it keeps its lock, and so the program from its end.
        self._file = os.fdopen(os.dup(terminal.fileno()), "w", encoding=terminal.encoding, errors="replace")
        self._view = View(Console(file=self._file))
        self._lines: deque[str] = deque(maxlen=WAITING_LINES)
        self._news = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._draw, name="view", daemon=True)
        self._thread.start()

    def show(self, message: Message) -> None:
        """Take in one message; it is drawn when the terminal is ready for it."""
        self._view.take(message)
        self._news.set()

    def say(self, text: str) -> None:
        """A line for the person, above the view."""
        self._lines.append(text)
        self._news.set()

    def close(self) -> bool:
        """Draw for the last time; False where the terminal does not take it within `CLOSING_S`."""
        self._over = True
        self._news.set()
        self._thread.join(CLOSING_S)
        return not self._thread.is_alive()

    def _draw(self) -> None:
        # A terminal that has gone needs no view; the run goes on.
        with contextlib.suppress(OSError), self._file, self._view:
            over = False
            while not over:
                self._news.wait()
                self._news.clear()
                over = self._over
                while self._lines:
                    self._view.say(self._lines.popleft())
                self._view.draw(time.monotonic_ns())


def line(message: Message) -> str:
    """One plain line for pipes and logs."""
    if isinstance(message, Status):
        condition = "  ".join(text for text, _ in _rates(message) + _troubles(message))
        return _safe(f"{message.stream}  {message.state}  {condition}")
    top = "-" if message.top is None else f"{message.top} {message.scores[message.top]:.2f}"
    total = message.latency_ms.get("total")
    late = "" if total is None else f"  {total:.0f} ms"
    return _safe(
        f"{subject(message)}  {message.t_ns / 1e9:.3f} s  {top}  seen {message.valid['video']:.0%}"
        f"  heard {message.valid['audio']:.0%}{late}"
    )


def _panel(name: str, held: _Stream, width: int) -> Panel:
    rows: list[RenderableType] = []
    if held.emotion is not None:
        rows += [_scores(held.emotion, width), Text(), _senses(held.emotion, held.status)]
    if held.status is not None:
        rows += [_joined(parts) for parts in (_rates(held.status), _troubles(held.status)) if parts]
        rows.append(_joined([(text, _FAINT) for text in _sources(held.status)]))
    state = held.status.state if held.status is not None else "running"
    top = held.emotion.top if held.emotion is not None else None
    return Panel(
        Group(*rows),
        title=Text.assemble((name, "bold"), "  ", (_safe(top or "-"), "cyan" if top else _FAINT)),
        title_align="left",
        subtitle=Text(state, style=_STATE_STYLE[state]),
        subtitle_align="right",
        border_style=_FAINT,
        width=width,
    )


def _overview(streams: Mapping[str, _Stream], width: int) -> Panel:
    """A line a stream, or a face of one: the most probable label, what was seen and heard, what is wrong."""
    table = Table(box=None, padding=(0, 1), header_style=_FAINT, width=width - 4)
    for heading, least in (("", 6), ("", 14), ("seen", 4), ("heard", 5), ("late", 6), ("scores/s", 8)):
        side: Literal["left", "right"] = "right" if heading else "left"
        table.add_column(heading, justify=side, no_wrap=True, min_width=min(least, width // 8))
    table.add_column("", no_wrap=True, ratio=1)
    for name, held in streams.items():
        for each, emotion in held.faces.items() or [(name, held.emotion)]:
            table.add_row(*_overview_row(each, emotion, held.status))
    return Panel(table, border_style=_FAINT, width=width)


def _overview_row(name: str, emotion: Emotion | None, status: Status | None) -> list[Text]:
    cells = [Text("") for _ in range(4)]
    if emotion is not None:
        top = "-" if emotion.top is None else f"{emotion.top} {emotion.scores[emotion.top]:.0%}"
        cells = [Text(_safe(top), style="cyan" if emotion.top else _FAINT)]
        for kind in ("video", "audio"):
            share = emotion.valid[kind]
            cells.append(Text(f"{share:.0%}", style="" if share >= 0.5 else "yellow"))
        late = emotion.latency_ms.get("total")
        cells.append(Text("" if late is None else f"{late:.0f} ms"))
    rate = "" if status is None else f"{status.fps['scores']:.1f}"
    state = "running" if status is None else status.state
    trouble = _joined([(state, _STATE_STYLE[state]), *([] if status is None else _troubles(status))])
    return [Text(name, style="bold"), *cells, Text(rate), trouble]


def _scores(emotion: Emotion, width: int) -> Table:
    """A row a label: the leading head's bar and number, then a small bar a head where there is room."""
    heads = HEADS if width == _WIDTH else ()
    silent = emotion.top is None
    table = Table(box=None, padding=(0, 1), show_header=bool(heads), header_style=_FAINT)
    table.add_column("")
    table.add_column("", width=_LEAD_CELLS if heads else max(4, width - 24))
    table.add_column("", justify="right", width=4)
    for head in heads:
        leads = emotion.heads[head] == emotion.scores
        table.add_column(Text(head, style="bold" if leads else ""), width=_HEAD_CELLS)
    for label in emotion.labels:
        score = emotion.scores[label]
        style = _FAINT if silent else "cyan" if label == emotion.top else "default"
        small = (_bar(emotion.heads[head][label], _HEAD_CELLS, style) for head in heads)
        number = Text(f"{score:.0%}", style=style)
        table.add_row(Text(_safe(label), style=style), _bar(score, None, style), number, *small)
    return table


def _bar(share: float, cells: int | None, style: str) -> ProgressBar:
    return ProgressBar(
        total=1, completed=share, width=cells, style="grey23", complete_style=style, finished_style=style
    )


def _senses(emotion: Emotion, status: Status | None) -> Text:
    parts = [
        (f"{verb} {emotion.valid[kind]:.0%}", "" if emotion.valid[kind] >= 0.5 else "yellow")
        for verb, kind in (("seen", "video"), ("heard", "audio"))
    ]
    if emotion.track >= 0:
        parts.append((f"face {emotion.track}", ""))
    if "total" in emotion.latency_ms:
        parts.append((f"{emotion.latency_ms['total']:.0f} ms late", ""))
    if status is None:
        parts.append((f"model {emotion.model}", _FAINT))
    return _joined(parts)


def _rates(status: Status) -> list[tuple[str, str]]:
    parts = [(f"{status.fps['camera']:.0f} pictures/s", ""), (f"{status.fps['scores']:.1f} scores/s", "")]
    if status.latency_ms:
        parts.append(
            ("latency " + " ".join(f"{name} {ms:.0f}" for name, ms in status.latency_ms.items()), "")
        )
    if not any(status.drops.values()):
        parts.append(("nothing dropped", ""))
    return parts


def _troubles(status: Status) -> list[tuple[str, str]]:
    """What is lost, dead or missing; empty on a good day."""
    parts = [(f"missing: {', '.join(status.missing)}", "bold yellow")] if status.missing else []
    if status.overload:
        parts.append((f"overloaded: {status.overload:.0%} of the windows skipped", "bold yellow"))
    for verb, counts in (("dropped", status.drops), ("restarted", status.restarts)):
        if any(counts.values()):
            figures = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            parts.append((f"{verb}: {figures}", "yellow"))
    return parts


def _sources(status: Status) -> list[str]:
    named = [status.source["camera"] or "no camera", status.source["microphone"] or "no microphone"]
    if status.engine:
        named.append(status.engine)
    if status.cpu:
        named.append(f"{sum(status.cpu.values()):.2f} cores")
    return named


def _joined(parts: list[tuple[str, str]]) -> Text:
    return Text(" · ").join(Text(_safe(text), style=style) for text, style in parts)


def _safe(text: str) -> str:
    """Text from outside without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
