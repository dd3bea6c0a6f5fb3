"""Local cameras through OpenCV, and the one door to everything that `--camera` may name.

A thread reads without pause, so that a picture is never older than it must be. Knows nothing of faces;
frames leave by iteration, BGR, with the driver's capture time where it has one (see `CameraClock`).
"""

import glob
import logging
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from engine.errors import AbsentError, SourceError
from engine.types import Frame, UInt8
from realtime.clock import CameraClock
from realtime.parts import Kind, kind_of
from realtime.sources.base import Inbox, Item, Source, SourceInfo
from realtime.sources.media import open_media

log = logging.getLogger(__name__)

_SILENT_S = 5.0
_LETTING_GO_S = 0.5
_INBOX = 4
_PROBED = 5
_BUFFERS = 2
_VIDIOC_QUERYCAP = 0x80685600
_CAPTURES = 0x00000001 | 0x00001000
_API = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A local camera.

    index: what `--camera INDEX` and OpenCV call it.
    name: what its driver calls it; `--camera NAME` takes any part of it.
    """

    index: int
    name: str


def list_cameras() -> list[Camera]:
    """The cameras of this machine. Where the system does not name them, the first indices are tried."""
    if sys.platform == "linux":
        nodes = (Path(found) for found in glob.glob("/sys/class/video4linux/video*"))
        cameras = [
            Camera(index=int(node.name.removeprefix("video")), name=(node / "name").read_text().strip())
            for node in nodes
            if _captures(node)
        ]
        return sorted(cameras, key=lambda camera: camera.index)
    found = []
    for index in range(_PROBED):
        capture = cv2.VideoCapture(index, _API.get(sys.platform, cv2.CAP_ANY))
        if capture.isOpened():
            found.append(Camera(index=index, name=f"camera {index}"))
        capture.release()
    return found


def open_camera(
    spec: str,
    *,
    paced: bool = True,
    anchor_ns: int | None = None,
    audio: bool = False,
    size: tuple[int, int] | None = None,
) -> Source:
    """Opens what `--camera` names, all but `demo` and `none`.

    spec: an index, a URL, a media file, a device node, or part of a camera's name, tried in that order.
    paced, anchor_ns, audio: for files and URLs, see `open_media`; audio: their sound is wanted too.
    size: width and height in pixels to ask a local camera for; default: OpenCV's (mostly 640 x 480).

    Raises SourceError; for what does not exist AbsentError, which says which cameras do.
    """
    if kind_of(spec, Kind.CAMERA) is Kind.MEDIA:
        return open_media(spec, paced=paced, anchor_ns=anchor_ns, audio=audio)
    cameras = list_cameras()
    if re.search(r"[/\\]|\.\w{2,4}$", spec) and not (spec.startswith("/dev/") or Path(spec).exists()):
        raise AbsentError(f"There is no file {spec}; {_what_there_is(cameras)}")
    camera = _chosen(spec, cameras)
    if camera is None:
        raise AbsentError(f"There is no camera {spec}; {_what_there_is(cameras)}")
    return CameraSource(camera, size=size)


class CameraSource:
    """A local camera as a source. Made by `open_camera`."""

    def __init__(self, camera: Camera, *, size: tuple[int, int] | None = None) -> None:
        self._camera = camera
        self._capture = cv2.VideoCapture(camera.index, _API.get(sys.platform, cv2.CAP_ANY))
        if not self._capture.isOpened():
            raise SourceError(
                f"Camera {camera.index} ({camera.name}) cannot be opened; another program may be using it, "
                "or this user may not (on Linux: group video)."
            )
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        # With one buffer a camera has nowhere to write while the last picture is being decoded and can lose
        # every other one; the thread below empties two as they come, so nothing ever waits in them.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
        self._inbox: Inbox[Frame] = Inbox(_INBOX)
        self._thread: threading.Thread | None = None
        self.info = SourceInfo(name=camera.name, has_video=True, has_audio=False, live=True, epoch_ns=None)

    def __iter__(self) -> Iterator[Item]:
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()
        try:
            yield from self._inbox.items(
                cause="picture not read in time",
                stall=f"Camera {self._camera.index} ({self._camera.name}) gives no pictures any more.",
                stall_s=_SILENT_S,
            )
        finally:
            self.close()

    def close(self) -> None:
        """The reading thread gives the device back after the picture that it waits for; that is waited for
        too, so that the camera can be opened again, but not for long: it may be the last that ever came."""
        self._inbox.close()
        if self._thread is None:
            self._capture.release()
        else:
            self._thread.join(_LETTING_GO_S)

    def _read(self) -> None:
        clock, trial, seq = CameraClock(), True, 0
        name = f"Camera {self._camera.index} ({self._camera.name})"
        while not self._inbox.closed:
            grabbed = self._capture.grab()
            arrival_ns = time.monotonic_ns()
            driver_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            image = self._capture.retrieve()[1] if grabbed else None
            if image is None:
                self._inbox.end(SourceError(f"{name} gives no pictures any more; was it unplugged?"))
                break
            if trial:
                trial = not clock.trial(driver_ns, arrival_ns)
                if not trial:
                    log.info("%s: capture times: %s", name, clock.choice)
                continue
            self._inbox.put(Frame(t_ns=clock.time_ns(driver_ns, arrival_ns), seq=seq, image=_three(image)))
            seq += 1
        self._capture.release()


def _three(image: UInt8) -> UInt8:
    """Some infrared cameras give grey pictures."""
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def _chosen(spec: str, cameras: list[Camera]) -> Camera | None:
    node = re.fullmatch(r"/dev/video(\d+)", os.path.realpath(spec))  # /dev/v4l/by-id/... leads to one
    index = spec if node is None or spec.isdigit() else node[1]
    if index.isdigit():
        return next((camera for camera in cameras if camera.index == int(index)), None)
    same = [camera for camera in cameras if camera.name.casefold() == spec.casefold()]
    alike = [camera for camera in cameras if spec.casefold() in camera.name.casefold()]
    return next(iter(same + alike), None)


def _what_there_is(cameras: list[Camera]) -> str:
    listed = ", ".join(f"{camera.index} ({camera.name})" for camera in cameras)
    there_is = f"there is {listed}" if listed else "there is no camera on this machine"
    return f"{there_is}; --camera demo needs none."


def _captures(node: Path) -> bool:
    """Is it a node that gives pictures? (Many cameras have a second one for metadata only.)"""
    import fcntl

    answer = bytearray(104)
    try:
        descriptor = os.open(f"/dev/{node.name}", os.O_RDWR | os.O_NONBLOCK)
    except PermissionError:
        return True  # listed, so that opening it says what is missing
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, answer)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    (device_caps,) = struct.unpack_from("=I", answer, 88)
    return bool(device_caps & _CAPTURES)
