"""`python docs/running.py`: runs the demo, and draws what a person at a terminal sees as `docs/running.svg`.

The lines are those of a real run and the view is `realtime.view` fed from its feed; nothing is made up. It
knows nothing of scores. Data leaves it as one SVG, without fonts or links from anywhere else.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from realtime.feed import Subscriber
from realtime.view import View

COMMAND = ("-m", "realtime.run", "--camera", "demo")
COLUMNS = 80
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def draw(options: Sequence[str], seconds: float, out: Path) -> None:
    """Run for so many seconds and draw the last moment."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/feed"
        command = [sys.executable, *COMMAND, "--bind", endpoint, *options]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        view = View(_screen())
        try:
            _watch(view, endpoint, seconds)
        finally:
            run.terminate()
            lines = run.communicate()[0].splitlines()
    console = _screen(record=True)
    console.print(Text(f"$ python {' '.join(COMMAND)}", style="bold"))
    for line in lines[:-1]:  # the last one says that it was ended
        console.print(Text(line.replace(endpoint, "tcp://127.0.0.1:5560")))
    console.print(view.render())
    picture = console.export_svg(title="de3-live", unique_id="running")
    out.write_text(FONT_FACES.sub("", picture))


def _screen(*, record: bool = False) -> Console:
    """A terminal that nobody sees."""
    return Console(
        file=io.StringIO(), record=record, width=COLUMNS, force_terminal=True, color_system="truecolor"
    )


def _watch(view: View, endpoint: str, seconds: float) -> None:
    with Subscriber(endpoint) as feed:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            message = feed.receive(left)
            if message is not None:
                view.show(message, time.monotonic_ns())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python docs/running.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the run (20)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("running.svg"))
    arguments, options = parser.parse_known_args()
    draw(options, arguments.seconds, arguments.out)


if __name__ == "__main__":
    main()
