"""What a player would show is what the face finder sees, live and in the evaluator alike."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.types import Block, Frame
from realtime.sources.media import open_media
from tests.peers.clip import write_clip, write_song
from trainer.data.clips import Contents, contents, play

ONE, LAST = 0x10000, 0x40000000
MATRICES = {
    "as stored": (1, 0, 0, 1),
    "turned clockwise": (0, 1, -1, 0),
    "turned over": (-1, 0, 0, -1),
    "turned anticlockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down in a mirror": (1, 0, 0, -1),
    "mirrored and turned": (0, 1, 1, 0),
}
SHOWN = {  # where the marks at the stored picture's top left (white) and top right (grey) are to be seen
    "as stored": ("top left", "top right"),
    "turned clockwise": ("top right", "bottom right"),
    "turned over": ("bottom right", "bottom left"),
    "turned anticlockwise": ("bottom left", "top left"),
    "mirrored": ("top right", "top left"),
    "upside down in a mirror": ("bottom left", "bottom right"),
    "mirrored and turned": ("top left", "bottom left"),
}


def marked(time_s: float) -> np.ndarray:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :16], picture[:16, -16:] = 255, 128
    return picture


def with_matrix(file: Path, turn: tuple[int, int, int, int]) -> Path:
    """The same file, to be shown so: p' = a p + c q, q' = b p + d q."""
    stored = file.read_bytes()
    plain = struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, LAST)
    a, b, c, d = (value * ONE for value in turn)
    track = stored.index(b"tkhd")
    other = stored[track:].replace(plain, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, LAST), 1)
    file.write_bytes(stored[:track] + other)
    return file


def corner(image: np.ndarray, place: str) -> float:
    rows = slice(0, 12) if "top" in place else slice(-12, None)
    columns = slice(0, 12) if "left" in place else slice(-12, None)
    return float(image[rows, columns].mean())


def shown(file: Path) -> np.ndarray:
    """The first picture of a file, which the evaluator sees as live, like all the others."""
    live = [item for item in open_media(str(file), paced=False) if isinstance(item, Frame)]
    later = [item for item in play(file) if isinstance(item, Frame)]
    assert [frame.t_ns for frame in live] == [frame.t_ns for frame in later]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(live, later, strict=True))
    return live[0].image


@pytest.mark.parametrize("name", MATRICES)
def test_upright_whatever_way_it_was_filmed(tmp_path: Path, name: str) -> None:
    file = write_clip(tmp_path / "clip.mp4", seconds=0.2, size=(64, 32), picture=marked, audio=False)
    image = shown(with_matrix(file, MATRICES[name]))
    assert image.shape == ((64, 32, 3) if "turned" in name and name != "turned over" else (32, 64, 3))
    white, grey = SHOWN[name]
    assert corner(image, white) > 220
    assert 100 < corner(image, grey) < 156


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (Fraction(2), (32, 128, 3)),
        (Fraction(1, 2), (64, 64, 3)),
        (Fraction(64, 45), (32, 91, 3)),
        (Fraction(100, 99), (32, 64, 3)),  # nobody would see it
        (Fraction(50), (32, 64, 3)),  # a broken header
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_pixels_that_are_no_squares_are_stretched(
    tmp_path: Path, name: str, aspect: Fraction, shape: tuple[int, ...]
) -> None:
    file = tmp_path / name
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(0), "bgr24")))
        container.mux(stream.encode())
    image = shown(file)
    assert image.shape == shape
    assert corner(image, "top left") > 220 > 20 > corner(image, "bottom right")


def test_stretched_and_then_turned(tmp_path: Path) -> None:
    """Pixels are as wide as the stored picture says; only then is it turned."""
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(0), "bgr24")))
        container.mux(stream.encode())
    assert shown(with_matrix(file, MATRICES["turned clockwise"])).shape == (128, 32, 3)


def test_a_damaged_packet_costs_the_evaluator_no_more_than_it_costs_live(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.mkv", seconds=6, fps=10)
    stored = bytearray(file.read_bytes())
    middle = len(stored) // 2
    stored[middle : middle + 300] = bytes(300)
    file.write_bytes(stored)
    shown(file)
    assert max(item.t_ns for item in play(file)) > 5_500_000_000


def test_what_cannot_be_decoded_at_all_is_named(tmp_path: Path) -> None:
    whole, file = write_clip(tmp_path / "clip.mp4", seconds=1, audio=False), tmp_path / "broken clip.mp4"
    with av.open(str(whole)) as source, av.open(str(file), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                rubbish = av.Packet(b"\xff" * packet.size)
                rubbish.pts, rubbish.dts, rubbish.time_base = packet.pts, packet.dts, packet.time_base
                rubbish.stream = stream
                container.mux(rubbish)
    with pytest.raises(ValueError, match=r"broken clip\.mp4 cannot be decoded"):
        list(play(file))


def test_a_cover_picture_is_no_face(tmp_path: Path) -> None:
    file = tmp_path / "song.mp3"
    write_song(file)
    assert contents(file) == Contents(has_video=False, has_audio=True)
    assert all(isinstance(item, Block) for item in play(file))
