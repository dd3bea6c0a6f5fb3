"""`python -m realtime.listen`: what a feed says, as a live view, as plain lines, or as JSON lines.

It knows nothing about workers or devices: it is a subscriber like any other. Data leaves it on stdout.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from engine.errors import De3Error
from realtime.feed import ClientKeys, Subscriber
from realtime.record import line as json_line
from realtime.view import View
from realtime.view import line as plain_line
from realtime.wire import DEFAULT_ENDPOINT, Message

PATIENCE_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 after Ctrl-C or a closed pipe, 1 where the feed or a flag is wrong."""
    # A shell that starts it in the background hands it SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = _parser().parse_args(arguments)
    try:
        _listen(given)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever read us has gone; what is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except De3Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m realtime.listen",
        description="Shows what one or several feeds say: a live view at a terminal, plain lines in a pipe.",
    )
    add = made.add_argument
    add("endpoints", nargs="*", default=[DEFAULT_ENDPOINT], metavar="ENDPOINT", help=f"({DEFAULT_ENDPOINT})")
    add("--json", action="store_true", help="one JSON object a line, keys as on the feed")
    add("--newest", action="store_true", help="skip what is overtaken by a newer message")
    add("--topic", action="append", metavar="PREFIX", help="only these topics; may be given several times")
    add("--secret", type=Path, metavar="FILE", help="our .key_secret file, for a feed with CURVE keys")
    add("--server-key", type=Path, metavar="FILE", help="the feed's public .key file")
    return made


def _listen(given: argparse.Namespace) -> None:
    if (given.secret is None) != (given.server_key is None):
        raise De3Error("--secret and --server-key go together: name both files.")
    curve = None if given.secret is None else ClientKeys(secret=given.secret, server=given.server_key)
    live = View.wanted() and not given.json
    topics = given.topic or (["emotion/", "status/"] if live else ["emotion/"])
    with ExitStack() as stack:
        feed = stack.enter_context(
            Subscriber(given.endpoints, topics=topics, newest=given.newest or live, curve=curve)
        )
        show = _lines(json_line if given.json else plain_line)
        if live:
            view = stack.enter_context(View())
            show = lambda message: view.show(message, time.monotonic_ns())  # noqa: E731
        first = feed.receive(PATIENCE_S)
        if first is None:
            sys.stderr.write(
                f"Nothing from {', '.join(given.endpoints)} yet: is python -m realtime.run on?\n"
            )
            first = feed.receive()
        while first is not None:
            show(first)
            first = feed.receive()


def _lines(text: Callable[[Message], str]) -> Callable[[Message], None]:
    def show(message: Message) -> None:
        sys.stdout.write(text(message) + "\n")
        sys.stdout.flush()

    return show


if __name__ == "__main__":
    sys.exit(main())
