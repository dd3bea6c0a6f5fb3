"""Media files as sources: times, order, offsets, and what is broken."""

import itertools
import struct
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from engine.errors import SourceError
from engine.types import Block, Frame
from realtime.sources.base import Idle, Item, Loss
from realtime.sources.media import open_media
from realtime.sources.microphone import open_microphone
from tests.peers.clip import beeps, flashes, write_clip, write_song

MEDIA = Path(__file__).parents[2] / ".." / "shared" / "media"


def read(path: Path, **options: bool) -> list[Item]:
    return list(open_media(str(path), paced=False, **options))


def frames_of(items: list[Item]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def blocks_of(items: list[Item]) -> list[Block]:
    return [item for item in items if isinstance(item, Block)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.mov"])
@pytest.mark.parametrize(
    "made",
    [
        pytest.param({}, id="plain"),
        pytest.param({"video_start_s": 0.5}, id="picture starts later"),
        pytest.param({"audio_start_s": 0.5}, id="sound starts later"),
        pytest.param({"variable": True}, id="variable frame rate"),
        pytest.param({"variable": True, "video_start_s": 0.5}, id="variable and later"),
    ],
)
def test_flash_and_beep_coincide(tmp_path: Path, name: str, made: dict[str, float]) -> None:
    items = read(write_clip(tmp_path / name, seconds=4, **made))
    seen, heard = flashes(frames_of(items)), beeps(blocks_of(items))
    assert len(seen) == len(heard) == 3
    assert np.abs(np.subtract(seen, heard)).max() < 0.010
    if not name.endswith("ts"):  # there the encoder's run-in of 23 ms is part of the programme
        assert np.allclose(seen, [1, 2, 3], atol=0.010)


def test_items_come_in_time_order_and_count(tmp_path: Path) -> None:
    items = read(write_clip(tmp_path / "clip.mp4", seconds=2, variable=True))
    times = [item.t_ns for item in items if isinstance(item, Frame | Block)]
    assert times == sorted(times)
    for kind in (frames_of(items), blocks_of(items)):
        assert [item.seq for item in kind] == list(range(len(kind)))
    blocks = blocks_of(items)
    assert {len(block.samples) for block in blocks[:-1]} == {320}
    steps = np.diff([block.t_ns for block in blocks])
    assert steps.min() > 19_000_000
    assert steps.max() < 21_000_000


def test_the_same_twice(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=2)
    first, second = read(path), read(path)
    assert [item.t_ns for item in first if isinstance(item, Frame | Block)] == [
        item.t_ns for item in second if isinstance(item, Frame | Block)
    ]
    assert all(
        np.array_equal(a.samples, b.samples) for a, b in zip(blocks_of(first), blocks_of(second), strict=True)
    )


def test_paced_times_lie_on_the_anchor_and_nothing_comes_early(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1)
    anchor_ns = time.monotonic_ns() + 50_000_000
    source = open_media(str(path), paced=True, anchor_ns=anchor_ns)
    assert source.info.epoch_ns == anchor_ns
    paced = []
    for item in source:
        now_ns = time.monotonic_ns()
        if isinstance(item, Block):
            assert now_ns >= item.t_ns + len(item.samples) * 62_500 - 1_000_000
        if isinstance(item, Frame):
            assert now_ns >= item.t_ns
        paced.append(item)
    unpaced = read(path)
    assert [f.t_ns - anchor_ns for f in frames_of(paced)] == [f.t_ns for f in frames_of(unpaced)]
    assert [b.t_ns - anchor_ns for b in blocks_of(paced)] == [b.t_ns for b in blocks_of(unpaced)]


def test_a_late_reader_gets_what_is_new_and_is_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=4)
    anchor_ns = time.monotonic_ns() - 3_000_000_000
    items = list(open_media(str(path), paced=True, anchor_ns=anchor_ns))
    lost = sum(item.count for item in items if isinstance(item, Loss))
    frames = frames_of(items)
    assert frames[0].t_ns - anchor_ns > 2_400_000_000
    assert frames[-1].t_ns - anchor_ns > 3_900_000_000
    assert lost > 70


def test_a_reader_that_starts_anew_far_into_the_file_goes_on_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=12, fps=10)
    anchor_ns = time.monotonic_ns() - 11_000_000_000
    items = list(open_media(str(path), paced=True, anchor_ns=anchor_ns))
    assert beeps(blocks_of(items))[-1] == pytest.approx(anchor_ns * 1e-9 + 11, abs=0.010)
    assert blocks_of(items)[0].t_ns - anchor_ns > 8_900_000_000
    assert frames_of(items)[-1].t_ns - anchor_ns == 11_900_000_000


def test_silence_while_waiting_is_filled_with_idle(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=2, fps=1, audio=False)
    items = list(open_media(str(path), paced=True))
    assert sum(isinstance(item, Idle) for item in items) >= 3
    assert len(frames_of(items)) == 2


def test_close_from_another_thread_ends_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=30, fps=2, audio=False)
    source = open_media(str(path), paced=True)
    items = iter(source)
    next(items)
    threading.Timer(0.1, source.close).start()
    began = time.monotonic()
    assert len(frames_of(list(items))) < 10
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("begun", [False, True])
def test_a_closed_file_is_let_go(tmp_path: Path, begun: bool) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1)
    source = open_media(str(path), paced=False)
    items = iter(source)
    read = list(itertools.islice(items, 2 * begun))
    source.close()
    if begun:
        assert read
        assert not list(items), "its reader lets it go"
    assert str(path) not in [file.path for file in psutil.Process().open_files()]


def test_a_closed_file_gives_nothing(tmp_path: Path) -> None:
    source = open_media(str(write_clip(tmp_path / "clip.mp4", seconds=1)), paced=False)
    source.close()
    assert not list(source)


@pytest.mark.parametrize(("video", "audio"), [(True, False), (False, True)])
def test_one_of_both_alone(tmp_path: Path, video: bool, audio: bool) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1, video=video, audio=audio)
    source = open_media(str(path), paced=False)
    assert (source.info.has_video, source.info.has_audio) == (video, audio)
    items = list(source)
    assert bool(frames_of(items)) == video
    assert bool(blocks_of(items)) == audio
    unwanted = {"video": not video, "audio": not audio}
    with pytest.raises(SourceError, match="holds no"):
        open_media(str(path), paced=False, **unwanted)


def test_odd_sizes(tmp_path: Path) -> None:
    items = read(write_clip(tmp_path / "clip.mp4", seconds=0.2, size=(161, 91), audio=False))
    assert frames_of(items)[0].image.shape == (91, 161, 3)


def test_upright_whatever_way_the_phone_was_held(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, :16] = 255  # a white bar at the left of the stored picture
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    upright = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    quarter = struct.pack(">9I", 0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)  # show turned clockwise
    stored = path.read_bytes()
    track = stored.index(b"tkhd")
    path.write_bytes(stored[:track] + stored[track:].replace(upright, quarter, 1))
    image = frames_of(read(path))[0].image
    assert image.shape == (64, 32, 3)
    assert image[:8].mean() > 200 > 50 > image[32:].mean()


def test_a_cover_picture_is_not_a_camera(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_song(path)
    assert not open_media(str(path), paced=False).info.has_video
    with pytest.raises(SourceError, match="no picture"):
        open_media(str(path), paced=False, audio=False)


@pytest.mark.parametrize("cut", [0.7, 0.95])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_truncated_media_plays_to_where_it_breaks(tmp_path: Path, name: str, cut: float) -> None:
    whole = write_clip(tmp_path / name, seconds=20, fps=10)
    if name.endswith("mp4"):
        whole = fast_start(whole)
    stored = whole.read_bytes()
    short = tmp_path / f"short_{name}"
    short.write_bytes(stored[: int(len(stored) * cut)])
    items = read(short)
    assert 10 < len(frames_of(items)) < len(frames_of(read(whole)))
    assert any(item.cause == "truncated" for item in items if isinstance(item, Loss)) or name.endswith("mkv")


def fast_start(path: Path) -> Path:
    """The same file with its index in front, as the web has them."""
    target = path.with_name("fast_" + path.name)
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


def test_damage_in_the_middle_is_counted_and_survived(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", seconds=6, fps=10)
    stored = bytearray(path.read_bytes())
    middle = len(stored) // 2
    stored[middle : middle + 300] = bytes(300)
    path.write_bytes(stored)
    frames = frames_of(read(path))
    assert len(frames) > 20
    assert frames[-1].t_ns > 5_500_000_000


def broken_text(path: Path) -> None:
    path.write_text("This is not media.\n" * 50)


def broken_empty(path: Path) -> None:
    path.touch()


def broken_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(20_000))


def broken_headless(path: Path) -> None:
    clip = write_clip(path.with_name("whole.mp4"), seconds=2)
    path.write_bytes(clip.read_bytes()[:3000])  # the index of an MP4 stands at its end


def broken_absent(path: Path) -> None:
    pass


def broken_folder(path: Path) -> None:
    path.mkdir()


def broken_subtitles(path: Path) -> None:
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nHello.\n\n")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("notes.txt", broken_text),
        ("notes.mp4", broken_text),
        ("notes", broken_text),
        ("empty.mp4", broken_empty),
        ("noise.avi", broken_noise),
        ("headless.mp4", broken_headless),
        ("absent.mp4", broken_absent),
        ("folder.mp4", broken_folder),
        ("words.srt", broken_subtitles),
    ],
)
def test_what_is_no_media_is_refused_in_one_sentence(tmp_path: Path, name: str, make: object) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    with pytest.raises(SourceError) as refused:
        list(open_media(str(path), paced=False))
    sentence = str(refused.value)
    assert name in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 300


def test_a_file_as_microphone_gives_its_sound_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=2)
    source = open_microphone(str(path), paced=False)
    items = list(source)
    assert source.info.has_audio
    assert not source.info.has_video
    assert not frames_of(items)
    assert beeps(blocks_of(items)) == pytest.approx([1.0], abs=0.010)


CLIPS = sorted(path.name for path in MEDIA.glob("*")) if MEDIA.is_dir() else ["absent"]


@pytest.mark.parametrize("name", CLIPS)
def test_the_shared_clips_open(name: str) -> None:
    if name == "absent":
        pytest.skip("../shared/media is not here")
    source = open_media(str(MEDIA / name), paced=False)
    shapes, frames = set(), 0
    for item in source:
        if isinstance(item, Frame):
            shapes.add(item.image.shape)
            frames += 1
            if frames == 20:
                source.close()
    assert frames >= 20
    assert len(shapes) == 1
