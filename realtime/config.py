"""What a run is asked to do: flags, a TOML file, and the exit statuses.

It knows nothing about devices or processes: whether a camera exists is found out by opening it. Data leaves
it as one frozen `Config`.
"""

import argparse
import enum
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import De3Error, unknown_key

ENGINES = ("auto", "tensorrt", "inductor", "onnx-cuda", "onnx", "openvino")
DEFAULT_BIND = "tcp://127.0.0.1:5560"
DEFAULT_STREAM = "main"
MOST_FACES = 16


class Exit(enum.IntEnum):
    """The exit statuses of `python -m realtime.run`; the one place where they are defined.

    OK: the media ended, the duration is over, or Ctrl-C.
    USAGE: a flag or the configuration is wrong, or there is no such camera or microphone.
    SOURCE: a camera, microphone, file or stream could not be opened or broke.
    DYING: a worker keeps dying (more than five restarts in a minute).
    BUNDLE: the bundle or its engine cannot be used.
    OUTPUT: the file of --out could not be written.
    """

    OK = 0
    USAGE = 2
    SOURCE = 3
    DYING = 4
    BUNDLE = 5
    OUTPUT = 6


class UsageError(De3Error):
    """A flag or a key of the configuration file is wrong."""


_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
Words = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """One camera with its microphone: its name on the feed, and a word for each as in `Config`.

    alone: it is the only one, and so what nobody named (the default microphone, say) is for it.
    """

    name: str
    camera: str | None
    mic: str | None
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run. Each field is a flag of the same name, and a key of the TOML file.

    camera: number, name, URL, file, "demo" or "none"; None: the first camera, else the demo; without pacing
        none. Several streams: one "NAME=WORD" each.
    mic: number, name, file, "default" or "none"; None: the sound of `camera` where that is a file, a URL or
        the demo, else the default microphone where there is one. "NAME=WORD": for that stream; else for the
        first one ("none": for all). Of several streams those with a device have no sound unless it is named.
    faces: how many faces of a camera are scored at most; with more than one each has a topic of its own.
    rate: scores a second. max_wait: milliseconds that a window waits for late data.
    secret, listeners: our `.key_secret` file, and the folder with the public `.key` file of each listener;
        both or neither. Without them the feed stays on this machine.
    duration: seconds; None: until the media ends or Ctrl-C.
    """

    camera: Words = None
    mic: Words = None
    rate: float = 5.0
    max_wait: float = 80.0
    bundle: Path | None = None
    engine: str = "auto"
    bind: str = DEFAULT_BIND
    secret: Path | None = None
    listeners: Path | None = None
    stream: str = DEFAULT_STREAM
    faces: int = 1
    pace: bool = True
    duration: float | None = None
    out: Path | None = None
    face_model: Path | None = None
    offline: bool = False
    log_json: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise UsageError(f"--rate must lie above 0 scores a second, not {self.rate:g}.")
        if not 0 <= self.max_wait <= 10_000:
            raise UsageError(f"--max-wait must lie between 0 and 10000 milliseconds, not {self.max_wait:g}.")
        if self.duration is not None and not 0 < self.duration <= 1e8:
            raise UsageError(f"--duration must be above 0 seconds, not {self.duration:g}.")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine must be one of {', '.join(ENGINES)}, not {self.engine!r}.")
        if not 1 <= self.faces <= MOST_FACES:
            raise UsageError(f"--faces must lie between 1 and {MOST_FACES}, not {self.faces}.")
        if (self.secret is None) != (self.listeners is None):
            raise UsageError("--secret and --listeners go together: name both, or neither.")
        if not _NAME.fullmatch(self.stream):
            raise UsageError(f"--stream takes 1 to 64 of A-Z a-z 0-9 . _ and -, not {self.stream!r}.")
        if self.out is not None and self.out.suffix not in (".jsonl", ".csv"):
            raise UsageError(f"--out must end in .jsonl or .csv, not {self.out.name!r}.")
        for stream in self.streams:
            if not self.pace:
                _check_no_pace(stream)
            silent = stream.mic == "none" or (stream.mic is None and not stream.alone)
            if stream.camera == "none" and silent:
                raise UsageError(
                    "With --camera none and --mic none there is nothing to look at or listen to."
                )

    @property
    def rate_hz(self) -> Fraction:
        """Scores a second, exactly as written in decimals."""
        return Fraction(str(self.rate))

    def out_of(self, stream: str) -> Path | None:
        """Where a stream's messages are written: one of several has its name before the suffix."""
        if self.out is None or len(self.streams) == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}.{stream}{self.out.suffix}")

    @property
    def streams(self) -> tuple[StreamConfig, ...]:
        """The streams in the order of their cameras. Raises UsageError where words do not fit together."""
        cameras = _named("--camera", self.camera, self.stream)
        if self.stream not in (DEFAULT_STREAM, *cameras):
            raise UsageError("--stream names the one stream of a run; here --camera NAME=... does.")
        mics = _named("--mic", self.mic, "")
        plain = mics.pop("", None)
        for name in mics:
            if name not in cameras:
                raise UsageError(
                    f"--mic {name}=...: there is no camera of that name, only {', '.join(cameras)}."
                )
        first = next(iter(cameras))
        if plain is not None and first in mics:
            both = f"--mic {shown(plain)} and --mic {first}={shown(str(mics[first]))}"
            raise UsageError(f"{both}: the stream {first} has one.")
        if cameras[first] is None and not self.pace:
            cameras[first] = "none"  # media time is the clock, and a camera has none
        if plain is not None:
            mics |= {name: plain for name in (cameras if plain == "none" else [first]) if name not in mics}
        return tuple(
            StreamConfig(name, camera, mics.get(name), len(cameras) == 1) for name, camera in cameras.items()
        )


def _named(flag: str, words: Words, plain: str) -> dict[str, str | None]:
    """Words by the name before their "="; the one without a name stands under `plain`.

    What names a file is a file, whatever its name looks like.
    """
    found: dict[str, str | None] = {}
    given: tuple[str | None, ...] = words if isinstance(words, tuple) else (words,)
    for word in given:
        name, mark, rest = (word or "").partition("=")
        named = bool(mark) and _NAME.fullmatch(name) is not None and not _is_file(word or "")
        key = name if named else plain
        if key in found:
            what = f"the name {key} twice" if named else "more than one without a name"
            raise UsageError(f"{flag} has {what}: several streams are told apart as {flag} NAME=...")
        found[key] = rest if named else word
    return found


def _is_file(word: str) -> bool:
    return "://" not in word and Path(word).is_file()


def shown(word: str) -> str:
    """A word of `--camera` or `--mic` for logs, errors and the feed: a URL without user and password."""
    return re.sub(r"://[^/]*@", "://", word)


def _check_no_pace(stream: StreamConfig) -> None:
    for flag, spec in (("--camera", stream.camera), ("--mic", stream.mic)):
        if spec not in (None, "none", "demo") and not Path(str(spec)).is_file():
            word = f"{flag} {shown(str(spec))}"
            raise UsageError(f"--no-pace takes media files (or the demo); {word} is not a file.")
    if stream.camera == "none" and stream.mic in (None, "none"):
        raise UsageError("--no-pace takes media files: name one with --camera or --mic.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help shows the flags.")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m realtime.run`. It raises UsageError for what it cannot read."""
    made = _Parser(
        prog="python -m realtime.run",
        description="Emotion scores from a face and a voice, on a ZeroMQ feed. Without flags: the first "
        "camera and the default microphone, or the demo where there is no camera.",
        epilog="Exit statuses: " + ", ".join(f"{code.value} {_MEANING[code]}" for code in Exit) + ".",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = made.add_argument
    camera_help = "what to look at; several: --camera STREAM=... for each"
    add("--camera", action="append", metavar="INDEX|NAME|URL|FILE|demo|none", help=camera_help)
    mic_help = "what to listen to (of a file: its own sound); of several: --mic STREAM=..."
    mic_words = "INDEX|NAME|FILE|default|none"
    add("--mic", action="append", nargs="?", const="default", metavar=mic_words, help=mic_help)
    add("--list-devices", action="store_true", help="list cameras and microphones, and end")
    add("--rate", type=float, metavar="HZ", help="scores a second (5)")
    add("--max-wait", type=float, metavar="MS", help="how long a window waits for late data (80)")
    add("--bundle", type=Path, metavar="DIR", help="the trained model (the bundled one)")
    add("--engine", choices=ENGINES, help="what runs the model (auto)")
    add("--bind", metavar="ENDPOINT", help=f"where the feed is published ({DEFAULT_BIND})")
    add("--secret", type=Path, metavar="FILE", help="our .key_secret file, to publish to other machines")
    add("--listeners", type=Path, metavar="DIR", help="folder with the .key file of each who may listen")
    add("--stream", metavar="NAME", help="the stream's name on the feed (main)")
    add("--faces", type=int, metavar="N", help="faces a camera, each with scores of its own (1: the largest)")
    add("--no-pace", action="store_false", dest="pace", help="files: as fast as possible, nothing dropped")
    add("--duration", type=float, metavar="S", help="end after so many seconds")
    add("--out", type=Path, metavar="FILE.jsonl|FILE.csv", help="write every emotion message here too")
    add(
        "--face-model",
        type=Path,
        metavar="FILE",
        help="YuNet's ONNX file (or yunet, fetched once) instead of the bundle's finder",
    )
    add("--offline", action="store_true", help="never try to fetch anything")
    add("--config", type=Path, metavar="FILE.toml", help="the same keys as these flags; flags win")
    add("--log-json", action="store_true", help="log lines as JSON")
    add("--debug", action="store_true", help="show stack traces")
    add("--version", action="store_true", help="show the version, and end")
    return made


_MEANING = {
    Exit.OK: "ended in good order",
    Exit.USAGE: "wrong usage, or no such camera or microphone",
    Exit.SOURCE: "a source failed",
    Exit.DYING: "a worker keeps dying",
    Exit.BUNDLE: "the bundle cannot be used",
    Exit.OUTPUT: "the output file cannot be written",
}


@dataclass(frozen=True, slots=True)
class Command:
    """The command line as read: what to do instead of a run, or the run's configuration."""

    list_devices: bool
    version: bool
    config: Config


def read_command(arguments: Sequence[str]) -> Command:
    """Flags over the TOML file over the defaults.

    Raises UsageError.
    """
    given = vars(parser().parse_args(arguments))
    list_devices, version = given.pop("list_devices", False), given.pop("version", False)
    path = given.pop("config", None)
    for key in given.keys() & {"camera", "mic"}:
        given[key] = _words(given[key])
    if list_devices or version:
        return Command(list_devices, version, Config())
    merged = (read_toml(path) if path is not None else {}) | given
    return Command(False, False, Config(**merged))


def read_toml(path: Path) -> dict[str, Any]:
    """The fields of `Config` that the file sets. Raises UsageError where a key or a value is wrong."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    return _fields(table, str(path))


def _fields(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    keys = {field.name.replace("_", "-"): field.name for field in fields(Config) if field.name != "pace"}
    keys["no-pace"] = "pace"
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = keys.get(key.replace("_", "-"))
        if name is None:
            raise UsageError(f"{where}: {unknown_key(key, keys)}")
        found[name] = _value(name, value, f"{where}: {key}")
    return found


def _words(words: Sequence[str]) -> Words:
    return words[0] if len(words) == 1 else tuple(words)


def _value(name: str, value: Any, where: str) -> Any:
    if name in ("camera", "mic") and isinstance(value, list) and value:
        return _words([_value(name, each, where) for each in value])
    if name in ("pace", "offline", "log_json", "debug"):
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, not {value!r}.")
        return not value if name == "pace" else value
    if name in ("rate", "max_wait", "duration"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{where} must be a number, not {value!r}.")
        return float(value)
    if name == "faces":
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{where} must be a whole number, not {value!r}.")
        return value
    if name in ("camera", "mic") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"{where} must be a string, not {value!r}.")
    return Path(value) if name in ("bundle", "out", "face_model", "secret", "listeners") else value
