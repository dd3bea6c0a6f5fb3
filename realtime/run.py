"""`python -m realtime.run`: cameras and microphones in, emotion scores on the feed.

Reads the command line, puts the parts of the main process together and gives the exit status. Imports are
late on purpose: every worker imports this file again, and a mistake in a flag should not wait for NumPy.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from realtime.config import Config, Exit, UsageError, read_command

if TYPE_CHECKING:
    from realtime.lines import Lines
    from realtime.outlet import Outlet
    from realtime.session import Session

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process when None); returns the exit status."""
    try:
        command = read_command(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.USAGE
    if command.version:
        print(_version())
        return Exit.OK
    if command.list_devices:
        from realtime.devices import device_lines

        print("\n".join(device_lines()))
        return Exit.OK
    return _run(command.config)


def _run(config: Config) -> Exit:
    with _interrupts() as stop:
        from realtime.feed import FeedError
        from realtime.lines import Lines
        from realtime.record import RecordError

        lines = Lines(config.log_json, config.debug)
        try:
            return _run_session(config, lines, stop)
        except (UsageError, FeedError) as error:
            status, text = Exit.USAGE, str(error)
        except RecordError as error:
            status, text = Exit.OUTPUT, str(error)
        if config.debug:
            traceback.print_exc()
        lines.error(text)
        return status


def _run_session(config: Config, lines: "Lines", stop: threading.Event) -> Exit:
    from realtime.feed import Publisher, ServerKeys
    from realtime.link import private_endpoints
    from realtime.outlet import Outlet
    from realtime.parts import parts
    from realtime.record import Recorder
    from realtime.session import Session

    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    with contextlib.ExitStack() as stack:
        curve = None
        if config.secret is not None and config.listeners is not None:
            curve = ServerKeys(secret=config.secret, clients=config.listeners)
        publisher = stack.enter_context(Publisher(config.bind, curve=curve))
        outlets = {}
        for name in (stream.name for stream in config.streams):
            out = config.out_of(name)
            recorder = None if out is None else stack.enter_context(Recorder(out))
            outlets[name] = Outlet(name, publisher, recorder, config.faces)
        endpoints = stack.enter_context(private_endpoints())
        session = Session(config, endpoints, outlets, lines, stop)
        names = ", ".join(outlets)
        text = f"de3-live {_version()}; feed: {publisher.endpoint}, stream{'s' * (len(outlets) > 1)} {names}"
        lines.info(text, version=_version(), feed=publisher.endpoint, stream=names)
        session.spawn(parts(config))
        if sys.stdout.isatty() and not config.log_json:
            stack.enter_context(_view(outlets.values(), lines))
        status = session.run()
    _say_summary(session, lines)
    return status


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Set by Ctrl-C and by SIGTERM, as often as they come; the run then ends in good order."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _view(outlets: "Iterable[Outlet]", lines: "Lines") -> Iterator[None]:
    """The live view, where the terminal can redraw; lines are written above it."""
    from realtime.view import Aside, View

    if not View.wanted():
        yield
        return
    view = Aside(sys.stdout)
    lines.above = view.say
    for outlet in outlets:
        outlet.view = view
    try:
        yield
    finally:
        lines.above = None
        for outlet in outlets:
            outlet.view = None
        if not view.close():
            _leave_terminal()


def _leave_terminal() -> None:
    """A terminal that takes nothing must not hold up the end: what is still to be said is said to nobody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.dup2(nowhere, stream.fileno())


def _say_summary(session: "Session", lines: "Lines") -> None:
    if not session.started:
        return
    for stream in session.streams.values():
        outlet, drops = stream.outlet, stream.condition.drops
        text = "ended: " if len(session.streams) == 1 else f"{stream.name} ended: "
        text += f"{outlet.windows} windows"
        latencies_ms = outlet.latencies_ms()
        if latencies_ms:
            text += ", latency " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in latencies_ms.items())
        lost = ", ".join(f"{count} {cause}" for cause, count in sorted(drops.items()))
        text += f"; lost: {lost}" if lost else "; nothing lost"
        lines.info(text, windows=outlet.windows, latency_ms=latencies_ms, drops=drops, stream=stream.name)


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("de3-live")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
