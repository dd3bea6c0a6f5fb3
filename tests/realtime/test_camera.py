"""Cameras: over the network with real servers; local ones as far as a machine without any can tell."""

import contextlib
import io
import itertools
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import AbsentError, SourceError
from engine.types import SECOND_NS, Block, Frame
from realtime.config import shown
from realtime.sources.base import Idle, Item, Loss, Source
from realtime.sources.camera import Camera, _chosen, list_cameras, open_camera
from realtime.sources.network import NetworkSource, _Arrival
from tests.peers.clip import beeps, flashes, write_clip
from tests.peers.mjpeg import MjpegServer
from tests.peers.rtsp import RtspServer


def grey_pictures() -> Iterator[np.ndarray]:
    """Each tells its number by its grey."""
    return (np.full((48, 64, 3), 10 + 8 * (index % 30), np.uint8) for index in itertools.count())


def frames_of(source: Source, count: int) -> list[Frame]:
    frames = list(itertools.islice((item for item in source if isinstance(item, Frame)), count))
    source.close()
    return frames


def until_error(source: Source) -> tuple[list[Item], str]:
    """What a source gives before it breaks, and what it says then."""
    items: list[Item] = []
    try:
        for item in source:
            items.append(item)
    except SourceError as error:
        return items, str(error)
    raise AssertionError("the source ended without an error")


@contextlib.contextmanager
def sent(data: bytes) -> Iterator[str]:
    """The URL of a camera that sends these bytes to who comes first, and hangs up."""

    def serve() -> None:
        client, _ = camera.accept()
        with client, contextlib.suppress(OSError):  # it may have left
            client.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as camera:
        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{camera.getsockname()[1]}"


def noisy_pictures(container: str, count: int, key_every: int) -> Sequence[bytes]:
    """Pictures in H.264, 15 a second, in what must be sent for each."""
    chance, target = np.random.default_rng(0), io.BytesIO()
    ends = [0]
    with av.open(target, "w", format=container) as out:
        every = {"g": str(key_every), "keyint_min": str(key_every), "sc_threshold": "0"}
        options = {"preset": "ultrafast", "tune": "zerolatency"} | every
        stream = out.add_stream("libx264", rate=15, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(count):
            image = chance.integers(0, 255, (48, 64, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
            ends.append(target.tell())
        data = target.getvalue()
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def test_mjpeg_pictures_have_the_times_at_which_they_were_sent() -> None:
    with MjpegServer(grey_pictures, fps=30) as camera:
        frames = frames_of(open_camera(camera.url), 30)
        sent_ns = np.array(camera.sent_ns)
        numbers = [round((float(frame.image.mean()) - 10) / 8) for frame in frames]
    assert [frame.seq for frame in frames] == list(range(30))
    delays_ns = np.array([frame.t_ns for frame in frames]) - sent_ns[numbers[0] : numbers[0] + 30]
    assert delays_ns.min() >= 0
    assert np.median(delays_ns) < 20_000_000  # FFmpeg's own stamps would be 0 to 40 ms off


def test_rtsp_picture_and_sound_coincide(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", seconds=4.5)
    with RtspServer(clip) as camera:
        source = open_camera(camera.url, audio=True)
        assert source.info.live
        assert source.info.has_audio
        items, error = until_error(source)
    assert "has ended" in error
    frames = [item for item in items if isinstance(item, Frame)]
    blocks = [item for item in items if isinstance(item, Block)]
    seen, heard = flashes(frames), beeps(blocks)
    assert len(seen) >= 2
    assert np.abs(np.subtract(seen[-2:], heard[-2:])).max() < 0.010
    assert np.diff(seen) == pytest.approx(1.0, abs=0.010)
    for each in (frames, blocks):
        times = [item.t_ns for item in each]
        assert times == sorted(times)
    assert frames[0].t_ns > camera.first_sent_ns
    assert frames[-1].t_ns < time.monotonic_ns()


def test_pictures_of_bare_h264_have_the_times_at_which_they_came() -> None:
    begun_ns = time.monotonic_ns()
    with sent(b"".join(noisy_pictures("h264", count=60, key_every=15))) as url:
        items, error = until_error(open_camera(url))
    assert "has ended" in error
    frames = [item for item in items if isinstance(item, Frame)]
    assert len(frames) >= 15  # those in which FFmpeg looks for what they are do not come
    assert sum(isinstance(item, Idle) for item in items) >= 5, "packets before the first whole picture"
    times_ns = [begun_ns, *(frame.t_ns for frame in frames), time.monotonic_ns()]
    assert times_ns == sorted(times_ns)


def test_a_camera_is_not_silent_before_its_first_whole_picture() -> None:
    packets = noisy_pictures("mpegts", count=75, key_every=100)[10:]
    with sent(b"".join(packets)) as url:
        items, error = until_error(open_camera(url))
    assert "has ended" in error
    assert len(items) >= 20
    assert {item.cause for item in items if isinstance(item, Loss)} == {"damaged packet"}


@pytest.mark.parametrize("step_s", [-300, 300])
def test_sound_goes_on_where_the_time_of_a_stream_jumps(tmp_path: Path, step_s: int) -> None:
    piece_ns, rate_hz = 20_000_000, 48_000
    container = av.open(str(write_clip(tmp_path / "sound.ts", seconds=1, video=False)))
    source = NetworkSource(container, "rtsp://camera", video=False, audio=True)
    blocks, causes = [], []
    for index in range(200):
        now_ns, pts_ns = 1_000 * SECOND_NS + index * piece_ns, 600 * SECOND_NS + index * piece_ns
        pts_ns += step_s * SECOND_NS * (index >= 100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "flt", "mono")
        frame.sample_rate = rate_hz
        end_ns = pts_ns + piece_ns
        given = source._given(
            _Arrival(end_ns=end_ns, arrival_ns=now_ns, frames=[(pts_ns, frame)], audio=True, damaged=False)
        )
        for item in given:
            if isinstance(item, Block):
                assert now_ns - 3 * piece_ns <= item.t_ns < now_ns
                blocks.append(item)
            elif isinstance(item, Loss):
                causes.append(item.cause)
    source.close()
    assert causes == ["stream time jumped"]
    ends_ns = [block.t_ns + len(block.samples) * 62_500 for block in blocks]
    assert ends_ns[:-1] == pytest.approx([block.t_ns for block in blocks[1:]], abs=1_000_000), "without a gap"


@pytest.mark.parametrize("audio", [False, True])
def test_a_camera_that_falls_silent_is_idle_and_then_an_error(audio: bool) -> None:
    few = lambda: itertools.islice(grey_pictures(), 10)  # noqa: E731
    with MjpegServer(few, fps=30, hang=True) as camera:
        source = open_camera(camera.url, audio=audio)
        items, error = until_error(source)
    assert "sends nothing any more" in error
    assert sum(isinstance(item, Frame) for item in items) >= 8  # FFmpeg keeps the first to itself
    assert sum(isinstance(item, Idle) for item in items) >= 3
    assert camera.url in error


def test_a_camera_that_hangs_up_is_an_error() -> None:
    few = lambda: itertools.islice(grey_pictures(), 10)  # noqa: E731
    with MjpegServer(few, fps=30) as camera, pytest.raises(SourceError, match=r"has ended|broken off"):
        list(open_camera(camera.url))


def test_close_ends_a_waiting_reader() -> None:
    few = lambda: itertools.islice(grey_pictures(), 5)  # noqa: E731
    with MjpegServer(few, fps=30, hang=True) as camera:
        source = open_camera(camera.url)
        began = time.monotonic()
        timer = threading.Timer(0.4, source.close)
        timer.start()
        assert len([item for item in source if isinstance(item, Frame)]) >= 3
        assert time.monotonic() - began < 2


def test_a_slow_reader_gets_the_newest_and_is_told() -> None:
    with MjpegServer(grey_pictures, fps=100) as camera:
        source = open_camera(camera.url)
        items = iter(source)
        next(item for item in items if isinstance(item, Frame))
        wait_for(lambda: len(camera.sent_ns) > 120)
        late = [next(items) for _ in range(3)]
        newest_ns = camera.sent_ns[-1]
        source.close()
    assert late[0].count > 20  # type: ignore[union-attr]
    assert newest_ns - late[1].t_ns < 2_000_000_000  # type: ignore[union-attr]


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}/camera"
        with pytest.raises(SourceError) as raised:
            open_camera(url)
    assert "secret" not in "".join(traceback.format_exception(raised.value))
    assert "refused" in str(raised.value)


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(SourceError, match="cannot be opened"):
        open_camera(f"rtsp://127.0.0.1:{mute.getsockname()[1]}/camera")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Host and port where the files of a folder are to be had over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_a_file_over_http_is_a_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", seconds=2)
    with serving(tmp_path) as host:
        source = open_camera(f"http://me:p@ss@{host}/clip.mkv", paced=False)
        assert source.info.name == f"http://{host}/clip.mkv"
        assert not source.info.live
        assert flashes([item for item in source if isinstance(item, Frame)]) == pytest.approx(
            [1.0], abs=0.010
        )


def test_a_file_over_http_without_what_is_wanted_is_told_without_its_password(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", seconds=1, video=False)
    with (
        serving(tmp_path) as host,
        pytest.raises(SourceError, match=rf"^http://{host}/clip\.mkv holds no picture\.$"),
    ):
        open_camera(f"http://me:secret@{host}/clip.mkv", paced=False)


@pytest.mark.parametrize("password", ["secret", "se@cret", "sec:re@t?"])
def test_passwords_are_not_shown(password: str) -> None:
    assert shown(f"rtsp://me:{password}@camera/1") == "rtsp://camera/1"


def test_a_file_is_shown_as_it_is_called() -> None:
    assert shown("talks//me@home.mp4") == "talks//me@home.mp4"


@pytest.mark.parametrize("spec", ["97", "Camera That Nobody Has", "/dev/video97"])
def test_no_such_camera_names_what_there_is_and_the_demo(spec: str) -> None:
    with pytest.raises(SourceError) as raised:
        open_camera(spec)
    sentence = str(raised.value)
    assert spec in sentence
    assert "--camera demo" in sentence
    for camera in list_cameras():
        assert camera.name in sentence


@pytest.mark.parametrize("node", ["/dev/video2", "by-id"])
def test_a_device_node_is_the_camera_that_it_leads_to(tmp_path: Path, node: str) -> None:
    cameras = [Camera(index=index, name=f"camera {index}") for index in (0, 2)]
    (tmp_path / "by-id").symlink_to("/dev/video2")
    assert _chosen(str(tmp_path / node), cameras) is cameras[1]


def test_a_device_node_is_no_media(tmp_path: Path) -> None:
    node = tmp_path / "by-id"
    node.symlink_to("/dev/null")
    with pytest.raises(AbsentError, match=f"There is no camera {node}; "):
        open_camera(str(node))


def test_no_such_file_is_called_a_file() -> None:
    with pytest.raises(SourceError, match=r"There is no file holiday\.mp4"):
        open_camera("holiday.mp4")


def test_cameras_have_names_and_numbers() -> None:
    for camera in list_cameras():
        assert isinstance(camera, Camera)
        assert camera.name
