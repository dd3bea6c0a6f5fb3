"""Microphones through PortAudio, and the one door to everything that `--mic` may name.

PortAudio's callback only copies; the iterator fits the clock, resamples and cuts blocks. Knows nothing of
features or scores. PortAudio is loaded when a microphone is opened or listed, never on import.
"""

import contextlib
import importlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np

from engine.errors import AbsentError, SourceError
from engine.types import Block, Float32
from realtime.clock import SampleClock
from realtime.parts import Kind, kind_of
from realtime.sources.base import Inbox, Item, Loss, Source, SourceInfo
from realtime.sources.media import open_media
from realtime.sources.sound import BLOCK_NS, RATE_HZ, BlockCutter

log = logging.getLogger(__name__)

_SILENT_S = 3.0
_READY_S = 10.0
_LOCKS = Path("/dev/shm")
_CALLBACK_S = 0.02
_BUFFER_S = 0.06
_INBOX, _KEPT = 100, 10
_RATES_HZ = (48_000, 44_100, 16_000)
_WORST_AGE_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Microphone:
    """A sound input as PortAudio lists it.

    index: what `--mic INDEX` and PortAudio call it.
    name: what its driver calls it; `--mic NAME` takes any part of it.
    rate_hz: its own rate.
    default: whether `--mic default` means this one.
    """

    index: int
    name: str
    rate_hz: int
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Heard:
    """What one callback brought: samples (N,) float32, and the time of the first."""

    samples: Float32
    t_ns: int
    overflow: bool


def list_microphones() -> list[Microphone]:
    """The sound inputs of this machine. Raises SourceError where PortAudio is missing."""
    portaudio = _portaudio()
    default = portaudio.default.device[0]
    return [
        Microphone(
            index=device["index"],
            name=device["name"],
            rate_hz=round(device["default_samplerate"]),
            default=device["index"] == default,
        )
        for device in portaudio.query_devices()
        if device["max_input_channels"] > 0
    ]


def open_microphone(spec: str = "default", *, paced: bool = True, anchor_ns: int | None = None) -> Source:
    """Opens what `--mic` names, all but `none`.

    spec: `default`, an index, a media file or URL (its sound), or part of a microphone's name.
    paced, anchor_ns: for files, see `open_media`.

    Raises SourceError; for what does not exist AbsentError, which says which microphones do.
    """
    if kind_of(spec, Kind.MICROPHONE) is Kind.MEDIA:
        return open_media(spec, paced=paced, anchor_ns=anchor_ns, video=False)
    microphones = list_microphones()
    chosen = _chosen(spec, microphones)
    if chosen is None:
        listed = ", ".join(f"{each.index} ({each.name})" for each in microphones)
        there_is = f"there is {listed}" if listed else "there is none on this machine"
        what = "default microphone" if spec == "default" else f"microphone {spec}"
        raise AbsentError(f"There is no {what}; {there_is}; --mic none goes without.")
    return MicrophoneSource(chosen)


class MicrophoneSource:
    """A microphone as a source. Made by `open_microphone`."""

    def __init__(self, microphone: Microphone) -> None:
        self._portaudio = _portaudio()
        self._inbox: Inbox[_Heard] = Inbox(_INBOX, _KEPT)
        self._stream, self._rate_hz = self._opened(microphone)
        self._clock = SampleClock(self._rate_hz)
        self._cutter = BlockCutter(self._rate_hz)
        self._start = 0
        self._heard = 0
        self._seq = 0
        self._last_ns = -(1 << 62)
        self._name = f"Microphone {microphone.index} ({microphone.name})"
        self.info = SourceInfo(
            name=microphone.name, has_video=False, has_audio=True, live=True, epoch_ns=None
        )

    def __iter__(self) -> Iterator[Item]:
        try:
            self._stream.start()
            for item in self._inbox.items(
                cause="sound not read in time",
                stall=f"{self._name} gives no sound any more; was it unplugged?",
                stall_s=_SILENT_S,
            ):
                if isinstance(item, _Heard):
                    yield from self._blocks(item)
                    continue
                if isinstance(item, Loss):
                    self._afresh()
                yield item
        except self._portaudio.PortAudioError as error:
            raise SourceError(f"{self._name} cannot be read: {_plain(error)}.") from error
        finally:
            self.close()

    def close(self) -> None:
        self._inbox.close()
        self._stream.close(ignore_errors=True)

    def _blocks(self, heard: _Heard) -> Iterator[Item]:
        if heard.overflow:
            self._afresh()
            yield Loss(cause="microphone overflow", count=1)
        jump_ns = self._clock.push(self._heard, heard.t_ns)
        if jump_ns:
            log.warning("%s: its time jumped by %.0f ms", self._name, jump_ns * 1e-6)
            yield Loss(cause="microphone time jumped", count=max(1, abs(jump_ns) // BLOCK_NS))
        self._heard += len(heard.samples)
        for index, samples in self._cutter.push(heard.samples):
            t_ns = self._clock.time_ns(self._start + index * self._rate_hz // RATE_HZ)
            if t_ns <= self._last_ns:
                yield Loss(cause="sound out of order", count=1)
                continue
            self._last_ns = t_ns
            yield Block(t_ns=t_ns, seq=self._seq, samples=samples)
            self._seq += 1

    def _afresh(self) -> None:
        """Samples are missing here: nothing may be resampled across, nor counted on."""
        self._clock.restart()
        self._cutter.restart()
        self._start = self._heard

    def _opened(self, microphone: Microphone) -> tuple[Any, int]:
        """Mono at the device's own rate, else two channels (some cards have no less), else other rates."""
        rates = dict.fromkeys((microphone.rate_hz, *_RATES_HZ))
        error: Exception | None = None
        for rate_hz, channels in ((rate_hz, channels) for rate_hz in rates for channels in (1, 2)):
            try:
                with _hushed():
                    stream = self._portaudio.InputStream(
                        device=microphone.index,
                        samplerate=rate_hz,
                        channels=channels,
                        dtype="float32",
                        blocksize=round(rate_hz * _CALLBACK_S),
                        latency=_BUFFER_S,  # room in the driver, not delay: what is there is read at once
                        callback=self._callback,
                    )
            except self._portaudio.PortAudioError as failed:
                error = error or failed
            else:
                return stream, rate_hz
        raise SourceError(
            f"Microphone {microphone.index} ({microphone.name}) cannot be opened: {_plain(error)}."
        ) from error

    def _callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        """In PortAudio's thread. Its time of this buffer's first sample, moved to the monotonic clock."""
        before_ns = time.monotonic_ns()
        stream_s = self._stream.time
        now_ns = (before_ns + time.monotonic_ns()) // 2
        age_ns = round((stream_s - times.inputBufferAdcTime) * 1e9)
        if not 0 <= age_ns <= _WORST_AGE_NS:  # some hosts give no such time: at best it has just ended
            age_ns = round(frames / self._rate_hz * 1e9)
        samples = np.ascontiguousarray(data.mean(axis=1, dtype=np.float32))
        self._inbox.put(_Heard(samples=samples, t_ns=now_ns - age_ns, overflow=bool(status.input_overflow)))


def _chosen(spec: str, microphones: list[Microphone]) -> Microphone | None:
    if spec == "default":
        return next((each for each in microphones if each.default), None)
    if spec.isdigit():
        return next((each for each in microphones if each.index == int(spec)), None)
    same = [each for each in microphones if each.name.casefold() == spec.casefold()]
    alike = [each for each in microphones if spec.casefold() in each.name.casefold()]
    return next(iter(same + alike), None)


def _plain(error: BaseException | None) -> str:
    """PortAudio's sentence without its number and its own full stop."""
    text = re.sub(r"^Error \w+ \w+: | \[PaErrorCode.*", "", str(error), flags=re.DOTALL)
    return text.rstrip(".") or "no reason given"


def _portaudio() -> Any:
    """The `sounddevice` module.

    Raises SourceError where the library under it is missing, or is not ready in time: it asks every sound
    server of the machine, and one that was killed may have left a lock that is waited for without end.
    """
    outcome: Queue[Exception | None] = Queue()
    with _hushed():
        threading.Thread(target=_load_portaudio, args=(outcome,), daemon=True).start()
        try:
            error = outcome.get(timeout=_READY_S)
        except Empty:
            raise SourceError(_no_answer(_LOCKS)) from None
    if error is None:
        return importlib.import_module("sounddevice")
    if type(error).__name__ == "PortAudioError":  # of the very module that failed to import
        raise SourceError(f"The sound system of this machine cannot be used: {_plain(error)}.") from error
    if not isinstance(error, OSError | ImportError):
        raise error
    raise SourceError(
        "Microphones need the PortAudio library, which is missing here: on Debian and Ubuntu "
        "`sudo apt install libportaudio2`; or go on with --mic none."
    ) from error


def _load_portaudio(outcome: "Queue[Exception | None]") -> None:
    try:
        importlib.import_module("sounddevice")
    except Exception as error:  # told where it was asked for
        outcome.put(error)
    else:
        outcome.put(None)


def _no_answer(locks: Path) -> str:
    """What to do about a sound system that does not come up. locks: where JACK keeps its own."""
    said = f"The sound system of this machine was not ready within {_READY_S:.0f} s"
    left = sorted(locks.glob("jack_db-*"))
    if not left:
        return f"{said}: restart its sound server, or go on with --mic none."
    cause = f"a JACK program that was killed may have left its lock, so remove {left[0]}"
    return f"{said}: {cause}, or go on with --mic none."


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """PortAudio and ALSA write to stderr about every device and rate that they try in vain."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
