"""Adapters, decoding, the cache of voices and the playing of clips, on made files and on the real sets."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.types import Block, Frame
from trainer.data import nemo, ravdess
from trainer.data.clips import Contents, contents, list_clips, play
from trainer.data.ferplus import TILE, read_ferplus
from trainer.data.sound import RATE_HZ, decode, load_voices, open_cache
from trainer.data.stills import load_ferplus
from trainer.data.takes import Take
from trainer.labels import LABELS

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not beside the repository")
    return folder


def write_wav(file: Path, samples: np.ndarray, rate_hz: int) -> None:
    """samples: (channels, N) float in [-1, 1)."""
    with av.open(str(file), "w") as container:
        layout = "mono" if len(samples) == 1 else "stereo"
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout=layout)
        packed = np.ascontiguousarray(np.rint(samples * 32767).astype(np.int16).T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate = rate_hz
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_clip(file: Path, starts_s: tuple[float, float] = (0.0, 0.0), seconds: float = 2.0) -> None:
    """A clip whose picture turns white at 1 s of its time and that beeps at 1 s; 25 fps, 48 kHz, lossless."""
    with av.open(str(file), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for index in range(int((seconds - starts_s[0]) * 25)):
            time_s = starts_s[0] + index / 25
            shade = 235 if 1.0 <= round(time_s, 6) < 1.1 else 20
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        time = starts_s[1] + np.arange(int((seconds - starts_s[1]) * 48_000)) / 48_000
        beep = 0.5 * np.sin(2 * np.pi * 1000 * time) * ((time >= 1.0) & (time < 1.1))
        samples = np.rint(beep * 32767).astype(np.int16)
        for at in range(0, len(samples), 960):
            frame = av.AudioFrame.from_ndarray(samples[None, at : at + 960], format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
            frame.pts = round(starts_s[1] * 48_000) + at
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def test_names_of_ravdess_are_read_and_others_refused() -> None:
    code = ravdess.parse_name("03-01-02-01-02-01-17")
    assert (code.label, code.statement, code.actor) == ("neutral", 2, 17)
    for name in ("03-01-02-01-02-01", "03-01-09-01-02-01-17", "a-b-c-d-e-f-g"):
        with pytest.raises(ValueError, match="not a RAVDESS name"):
            ravdess.parse_name(name)


def test_ravdess_is_whole_and_its_speakers_stay_in_their_split() -> None:
    takes = ravdess.list_takes(shared("ravdess"))
    assert len(takes) == 19 * 60
    splits = {split: {take.speaker for take in takes if take.split == split} for split in ("dev", "test")}
    assert splits["test"] == {f"ravdess/{actor}" for actor in range(17, 21)}
    assert splits["dev"] == {f"ravdess/{actor}" for actor in range(13, 17)}
    assert sum(take.label == "neutral" for take in takes) == 19 * 12
    assert sum(take.label == "disgust" for take in takes) == 19 * 8
    assert {take.speaker for take in ravdess.list_takes(shared("ravdess"), [3])} == {"ravdess/03"}


def test_a_folder_without_takes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no RAVDESS takes"):
        ravdess.list_takes(tmp_path)


def test_nemo_is_whole_with_two_dev_speakers() -> None:
    takes = nemo.list_takes(shared("nemo"))
    assert len(takes) == 4481
    assert all(take.file.is_file() for take in takes[::500])
    assert {take.speaker for take in takes if take.split == "dev"} == {"nemo/IC0", "nemo/WR0"}
    assert {take.label for take in takes} == set(LABELS) - {"disgust"}


def test_ferplus_is_the_same_in_both_layouts(tmp_path: Path) -> None:
    ours = shared("ferplus")
    sheets = [still for still, _ in zip(read_ferplus(ours, "dev"), range(40), strict=False)]
    words = ("neutral,happiness,surprise,sadness,anger,disgust,fear", "contempt,unknown,NF")
    order = ["neutral", "happy", "surprised", "sad", "angry", "disgust", "fearful"]
    votes = [f"Usage,Image name,{words[0]},{words[1]}", "Training,fer1.png,10,0,0,0,0,0,0,0,0,0"]
    pixels = ["emotion,pixels,Usage", "6," + " ".join(["7"] * TILE**2) + ",Training"]
    for still in sheets:
        counts = [int(still.votes[LABELS.index(label)]) for label in order]
        votes.append(",".join(map(str, ("PublicTest", "", *counts, 0, int(still.others), 0))))
        pixels.append("0," + " ".join(map(str, still.picture.ravel())) + ",PublicTest")
    with pytest.raises(FileNotFoundError, match=r"neither fer2013new\.csv with fer2013\.csv"):
        load_ferplus(tmp_path, "dev")
    (tmp_path / "fer2013new.csv").write_text("\n".join(votes) + "\n")
    (tmp_path / "fer2013.csv").write_text("\n".join(pixels) + "\n")
    published = list(read_ferplus(tmp_path, "dev"))
    assert [still.name for still in published] == [str(row) for row in range(1, 41)]
    for still, sheet in zip(published, sheets, strict=True):
        np.testing.assert_array_equal(still.picture, sheet.picture)
        np.testing.assert_array_equal(still.votes, sheet.votes)
        assert still.others == sheet.others
    (picture,), shares = load_ferplus(tmp_path, "train")
    assert (picture == 7).all()
    assert shares[0, LABELS.index("neutral")] == 1
    with pytest.raises(ValueError, match="no face of FERPlus whose split is 'test'"):
        load_ferplus(tmp_path, "test")
    (tmp_path / "fer2013.csv").write_text("\n".join([pixels[0], *pixels[2:], pixels[1]]) + "\n")
    with pytest.raises(ValueError, match="differ in row 0"):
        load_ferplus(tmp_path, "train")


def test_sound_is_decoded_to_sixteen_kilohertz_mono(tmp_path: Path) -> None:
    time = np.arange(44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    write_wav(tmp_path / "a.wav", np.stack((left, 0.0 * left)), 44_100)
    samples = decode(tmp_path / "a.wav")
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE_HZ, abs=1)
    # Channels are mixed at equal power, as FFmpeg does and as the live runtime hears them.
    expected = 0.5 * np.sqrt(0.5) * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / RATE_HZ)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=2e-3)


def test_a_picture_alone_has_no_sound_to_decode(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="has no sound"):
        decode(tmp_path / "a.mkv")


def test_the_cache_gives_back_what_was_decoded_and_notices_other_takes(tmp_path: Path) -> None:
    takes = []
    for index, label in enumerate(("happy", "sad", "angry")):
        file = tmp_path / f"{label}.wav"
        write_wav(file, np.full((1, 1600 * (index + 1)), 0.1 * (index + 1)), RATE_HZ)
        takes.append(Take(file=file, corpus="made", speaker=f"made/{index}", label=label, split="train"))
    cache = tmp_path / "cache"
    told: list[tuple[int, int]] = []
    voices = load_voices(takes, cache, lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for index, take in enumerate(takes):
        np.testing.assert_allclose(voices.take(index), decode(take.file), atol=1 / 32768)
        assert LABELS[voices.labels[index]] == take.label
    np.testing.assert_allclose(voices.durations_s, [0.1, 0.2, 0.3])
    told.clear()
    load_voices(takes, cache, lambda done, of: told.append((done, of)))
    assert not told
    assert len(load_voices(takes[:2], cache)) == len(open_cache(cache)) == 2
    with np.load(cache / "voices.npz") as index:
        kept = {key: index[key] for key in index if not key.startswith("attribute")}
    np.savez(cache / "voices.npz", **kept)  # as the first version wrote it
    with pytest.raises(ValueError, match="of an earlier version: prepare them anew"):
        open_cache(cache)
    assert load_voices(takes[:2], cache).attributes.shape == (2, 0)


def test_clips_are_listed_beside_their_table(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "labels.csv"
    table.write_text("extra,file,speaker,label\n1,a.mp4,s1,calm\n2,a.mp4,s2,Happy\n", encoding="utf-8")
    takes = list_clips(table)
    assert [(take.speaker, take.label) for take in takes] == [("s1", "neutral"), ("s2", "happy")]
    table.write_text("file,label\na.mp4,sad\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the column 'speaker'"):
        list_clips(table)
    table.write_text("file,speaker,label\nb.mp4,s1,sad\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2.*b\.mp4"):
        list_clips(table)
    table.write_text("file,speaker,label\na.mp4,s1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: there is no label"):
        list_clips(table)


@pytest.mark.parametrize("starts_s", [(0.0, 0.0), (0.52, 0.0), (0.0, 0.3)])
def test_flash_and_beep_keep_their_times(tmp_path: Path, starts_s: tuple[float, float]) -> None:
    file = tmp_path / "clip.mkv"
    write_clip(file, starts_s)
    assert contents(file) == Contents(has_video=True, has_audio=True)
    items = list(play(file))
    assert [item.t_ns for item in items] == sorted(item.t_ns for item in items)
    frames = [item for item in items if isinstance(item, Frame)]
    blocks = [item for item in items if isinstance(item, Block)]
    assert frames[0].t_ns == pytest.approx(starts_s[0] * 1e9, abs=1e6)
    assert blocks[0].t_ns == pytest.approx(starts_s[1] * 1e9, abs=1e6)
    assert min(frames[0].t_ns, blocks[0].t_ns) >= 0
    flash_ns = next(frame.t_ns for frame in frames if frame.image.mean() > 128)
    loud = next(block for block in blocks if np.abs(block.samples).max() > 0.1)
    beep_ns = loud.t_ns + int(np.argmax(np.abs(loud.samples) > 0.1)) * 1e9 / RATE_HZ
    assert flash_ns == pytest.approx(1e9, abs=1.1e6)
    assert beep_ns == pytest.approx(1e9, abs=1.1e6)


def test_what_is_not_asked_for_is_not_played(tmp_path: Path) -> None:
    file = tmp_path / "clip.mkv"
    write_clip(file, seconds=0.5)
    assert all(isinstance(item, Frame) for item in play(file, sound=False))
    assert all(isinstance(item, Block) for item in play(file, picture=False))
    assert len(np.concatenate([item.samples for item in play(file, picture=False)])) == RATE_HZ // 2
