"""Plans on disk: what one was built for, and whether it is whole.

A plan is one file in the user's cache: a line that says what it is, the length of a header, the header as
JSON (its key, sizes and SHA-256 of its parts, the figures measured when it was built), the parts. It is
written aside and moved into place, so a plan is there as a whole or not at all. This file knows no engine;
what does not fit is refused with a BackendError that says what to do.
"""

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.bundle import DEFAULT_BUNDLE, Bundle
from engine.cache import cache_folder
from engine.errors import BackendError
from engine.types import JsonMap

MAGIC = b"de3-live plan 1\n"
LENGTH_BYTES = 8
LARGEST_HEADER = 1 << 20
SUFFIX = ".plan"
ENCODER, SCORE, VOICE = "encoder", "score", "voice"
"""The parts of a plan (see `engine.plans.graphs`), the last where the bundle has a voice encoder."""

Watch = Callable[[str, int, int], None]
"""watch(what, step, steps): how far a phase of a build has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What compiled code depends on. engine: name and version; driver: the newest CUDA version that it knows;
    host: the processor, where a plan holds code for it."""

    engine: str
    device: str
    compute_capability: str
    driver: str
    host: str = ""

    @property
    def name(self) -> str:
        """The engine's, without its version."""
        return self.engine.split()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """What a plan was built for: a machine (see `Machine`), a bundle's digest, a precision, and the largest
    batch, which is also the number of tracks it keeps."""

    bundle: str
    engine: str
    device: str
    compute_capability: str
    driver: str
    precision: str
    largest_batch: int
    host: str = ""

    @property
    def machine(self) -> Machine:
        """The part that has to be as it was."""
        return Machine(**{field.name: getattr(self, field.name) for field in fields(Machine)})

    @property
    def file_name(self) -> str:
        """The bundle's digest, the engine's name, and a digest of the whole key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.bundle}-{self.machine.name}-{digest}{SUFFIX}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A plan in memory. parts: compiled code by name; figures: what was measured when it was built."""

    key: PlanKey
    parts: Mapping[str, bytes]
    figures: JsonMap


def part_names(bundle: Bundle) -> tuple[str, ...]:
    """What a plan of this bundle consists of."""
    return (ENCODER, SCORE) if bundle.voice is None else (ENCODER, SCORE, VOICE)


def plan_folder() -> Path:
    """Where plans and timing caches are kept."""
    return cache_folder() / "plans"


def write_plan(plan: Plan, folder: Path) -> Path:
    """Keep a plan; an older one of the same key is replaced. Raises BackendError where it cannot be
    written."""
    parts = [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in plan.parts.items()
    ]
    header = json.dumps({"key": asdict(plan.key), "parts": parts, "figures": plan.figures}).encode()
    data = MAGIC + len(header).to_bytes(LENGTH_BYTES, "little") + header + b"".join(plan.parts.values())
    file = folder / plan.key.file_name
    try:
        write_whole(file, data)
    except OSError as error:
        raise BackendError(f"The plan cannot be kept in {folder}: {error.strerror}.") from error
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Write a file aside and move it into place. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, file)
    except OSError:
        Path(scratch).unlink(missing_ok=True)
        raise


def read_key(file: Path) -> PlanKey:
    """What the plan in `file` was built for. Raises BackendError where that cannot be read."""
    try:
        with file.open("rb") as data:
            header, _ = _header(data.read(len(MAGIC) + LENGTH_BYTES + LARGEST_HEADER), file)
    except OSError as error:
        raise BackendError(f"The plan {file} cannot be read: {error.strerror}.") from error
    return _key(header, file)


def read_plan(file: Path) -> Plan:
    """A plan, every byte of it checked. Raises BackendError where it is cut short or altered."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BackendError(f"The plan {file} cannot be read: {error.strerror}.") from error
    header, at = _header(data, file)
    key, parts = _key(header, file), {}
    for part in header["parts"]:
        content = data[at : at + part["bytes"]]
        if len(content) != part["bytes"] or hashlib.sha256(content).hexdigest() != part["sha256"]:
            raise _spoilt(file)
        parts[part["name"]] = content
        at += part["bytes"]
    return Plan(key=key, parts=parts, figures=header["figures"])


def has_plans(bundle: Bundle, engine: str, folder: Path) -> bool:
    """Whether there is any plan of this bundle for an engine by name, for whatever machine."""
    return any(folder.glob(f"{bundle.digest}-{engine}-*{SUFFIX}"))


def refuse_waveforms(bundle: Bundle) -> None:
    """Raises BackendError for a bundle that takes waveforms: plans are for log-mel and voice tokens."""
    if bundle.sound == "waveform":
        raise BackendError(
            f"Plans take log-mel or tokens, and {bundle.path} takes the waveform: run it with --engine onnx."
        )


def build_command(bundle: Bundle, engine: str, precision: str = "", streams: int = 0) -> str:
    """What a user types for a plan of a bundle; without a precision or a number of streams the usual ones."""
    words = ["python -m engine.build --engine", engine]
    if bundle.path != DEFAULT_BUNDLE:
        words += ["--bundle", shlex.quote(str(bundle.path))]
    if precision:
        words += ["--precision", precision]
    if streams:
        words += ["--max-streams", str(streams)]
    return " ".join(words)


def rebuild_command(bundle: Bundle, key: PlanKey) -> str:
    """What a user types for a plan like the one with this key."""
    return build_command(bundle, key.machine.name, key.precision, key.largest_batch)


def too_few(bundle: Bundle, engine: str, precision: str, kept: int, wanted: int) -> str:
    """That a plan has no room for so many tracks, and what to build, in one sentence."""
    build = build_command(bundle, engine, precision, 1 << (wanted - 1).bit_length())
    return f"{wanted} tracks are wanted, and this plan keeps {kept} tracks: build one for more with {build}."


def find_plan(bundle: Bundle, machine: Machine, folder: Path, tracks: int = 1) -> Path:
    """The plan of a bundle for this machine and at least so many tracks that was built last.

    Raises BackendError where there is none, saying what the plans that are there were built for.
    """
    engine = machine.name
    refused: BackendError | None = None
    others: list[PlanKey] = []
    small: list[PlanKey] = []
    for file in sorted(folder.glob(f"{bundle.digest}-{engine}-*{SUFFIX}"), key=_age, reverse=True):
        try:
            key = read_key(file)
        except BackendError as error:
            refused = refused or error
            continue
        if key.machine != machine:
            others.append(key)
        elif key.largest_batch < tracks:
            small.append(key)
        else:
            return file
    if small:
        largest = max(small, key=lambda key: key.largest_batch)
        raise BackendError(too_few(bundle, engine, largest.precision, largest.largest_batch, tracks))
    if refused is not None:
        raise refused
    if others:
        raise BackendError(
            f"The plan of this bundle was built for {_differs(others[0].machine, machine)}: "
            f"build one with {rebuild_command(bundle, others[0])}."
        )
    build = build_command(bundle, engine)
    raise BackendError(f"There is no {engine} plan of this bundle yet: build one with {build}.")


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # another process has just replaced it
        return 0.0


def _differs(built: Machine, here: Machine) -> str:
    """What a plan was built for and what is here, named where they differ."""
    words = {"compute_capability": "compute capability ", "driver": "a driver for CUDA ", "host": "host "}
    pairs = [
        (
            f"{words.get(field.name, '')}{getattr(built, field.name) or '(unnamed)'}",
            f"{getattr(here, field.name)}",
        )
        for field in fields(Machine)
        if getattr(built, field.name) != getattr(here, field.name)
    ]
    return ", ".join(f"{was} (here is {now})" for was, now in pairs)


def _header(data: bytes, file: Path) -> tuple[JsonMap, int]:
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    raw = data[start : start + length]
    if not data.startswith(MAGIC) or len(raw) != length or not 0 < length <= LARGEST_HEADER:
        raise _spoilt(file)
    try:
        header = json.loads(raw)
    except ValueError:
        raise _spoilt(file) from None
    return header, start + length


def _key(header: JsonMap, file: Path) -> PlanKey:
    try:
        return PlanKey(**header["key"])
    except (KeyError, TypeError):
        raise _spoilt(file) from None


def _spoilt(file: Path) -> BackendError:
    engine = file.name.split("-")[1:2] or ["..."]
    return BackendError(
        f"The plan {file} is cut short or altered: build it anew, for the same bundle and precision, with "
        f"python -m engine.build --engine {engine[0]}."
    )
