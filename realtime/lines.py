"""Lines for the user: what a run says in words, on a terminal, in a pipe, or as JSON for a log collector.

It knows nothing about what happens; others say it. Data leaves it on stdout, warnings and errors on stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Lines:
    """Writes one line at a time.

    detailed: `detail` writes too. above: prints a line above a live view instead, while there is one.
    """

    as_json: bool = False
    detailed: bool = False
    above: Callable[[str], None] | None = None

    def detail(self, text: str, **facts: object) -> None:
        """What only those want to know who look for a fault."""
        if self.detailed or self.as_json:
            self._write("debug", text, facts)

    def info(self, text: str, **facts: object) -> None:
        """What happens as it should. `facts` go into the JSON beside the text."""
        self._write("info", text, facts)

    def warning(self, text: str, **facts: object) -> None:
        """What the run survives."""
        self._write("warning", text, facts)

    def error(self, text: str, **facts: object) -> None:
        """Why the run ends."""
        self._write("error", text, facts)

    def _write(self, level: str, text: str, facts: dict[str, object]) -> None:
        if self.as_json:
            line = json.dumps({"t_unix_ns": time.time_ns(), "level": level, "text": text} | facts)
        else:
            line = text if level in ("debug", "info") else f"{level}: {text}"
        if self.above is not None and not self.as_json:
            self.above(line)
            return
        stream = sys.stdout if level in ("debug", "info") else sys.stderr
        try:
            print(line, file=stream, flush=True)
        except BrokenPipeError:
            # Whoever read the lines has gone; the run goes on, and its end must not fail on what is buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
