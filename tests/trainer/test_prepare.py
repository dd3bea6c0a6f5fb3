"""Sets in the layout of their authors, with really encoded media, all the way to a trained step."""

import csv
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file
from small_windows import FRAME_ENCODER, WINDOW_MODEL

from engine.bundle import load_bundle
from engine.signals.finder import YUNET_FILE, HaarFinder, YunetFinder
from engine.types import Float32, UInt8
from realtime.sources.demo import Performance
from trainer import prepare_voices
from trainer.clip_sets import load_shards
from trainer.data.ravdess import list_recordings
from trainer.data.sound import open_cache
from trainer.data.takes import Take
from trainer.model.frame_encoder import FrameEncoder
from trainer.prepare import Request, Summary, main, prepare
from trainer.prepare_windows import prepare as prepare_windows
from trainer.stage_windows import WindowsStage
from trainer.take_store import Store, observe, settings_of
from trainer.work_pool import Died, run_all

FRAMES_HZ, FRAMES, RATE_HZ = 15, 16, 44_100
CODECS = {
    ".mp4": ("mpeg4", "aac"), ".flv": ("flv", "libmp3lame"), ".avi": ("mpeg4", "pcm_s16le"),
    ".wav": ("", "pcm_s16le"),
}  # fmt: skip
Media = Callable[..., None]


@pytest.fixture(scope="module")
def face() -> list[UInt8]:
    performance = Performance()
    return [np.ascontiguousarray(performance.picture(2 * n)[::2, ::2]) for n in range(FRAMES)]


@pytest.fixture(scope="module")
def media(face: list[UInt8]) -> Media:
    """Writes a file of the kind that its ending says: the demo's head, and a tone of a pitch of its own."""

    def write(file: Path, picture: bool = True, sound: bool = True, faces: bool = True) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        codec, sound_codec = CODECS[file.suffix]
        with av.open(str(file), "w") as container:
            if codec and picture:
                video = container.add_stream(codec, rate=FRAMES_HZ)
                video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
                video.bit_rate = 1_500_000
            if sound:
                audio = container.add_stream(sound_codec, rate=RATE_HZ, layout="mono")
            for index, image in enumerate(face if codec and picture else ()):
                frame = av.VideoFrame.from_ndarray(image if faces else image * 0 + 90, format="bgr24")
                frame.pts, frame.time_base = index, Fraction(1, FRAMES_HZ)
                container.mux(video.encode(frame))
            if sound:
                samples = tone(200 + len(file.stem) * 10)
                for at in range(0, len(samples), 1024):
                    part = np.rint(samples[None, at : at + 1024] * 32767).astype(np.int16)
                    block = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                    block.sample_rate, block.pts, block.time_base = RATE_HZ, at, Fraction(1, RATE_HZ)
                    container.mux(audio.encode(block))
                container.mux(audio.encode(None))
            if codec and picture:
                container.mux(video.encode(None))

    return write


def tone(pitch_hz: float) -> Float32:
    time = np.arange(int(RATE_HZ * FRAMES / FRAMES_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time) * (time > 0.2)).astype(np.float32)


def ravdess(root: Path, media: Media) -> list[str]:
    """Train: a clip with sound and its twins, a picture with sound beside it, sound alone. Dev: two clips."""
    video, sound = root / "Video_Speech_Actor_01/Actor_01", root / "Audio_Speech_Actors_01-24/Actor_01"
    media(video / "01-01-03-01-01-01-01.mp4")
    media(video / "02-01-03-01-01-01-01.mp4", sound=False)
    media(sound / "03-01-03-01-01-01-01.wav")
    media(video / "02-01-05-02-01-01-01.mp4", sound=False)
    media(sound / "03-01-05-02-01-01-01.wav")
    media(sound / "03-01-04-01-01-01-01.wav")
    for name in ("01-01-03-01-01-01-13", "01-01-05-01-01-01-13"):
        media(root / "Video_Speech_Actor_13/Actor_13" / f"{name}.mp4")
    return ["ravdess"]


def crema_d(root: Path, media: Media) -> list[str]:
    for name in ("1030_IEO_ANG_HI", "1030_IEO_HAP_LO", "1020_IEO_ANG_HI", "1020_IEO_HAP_LO"):
        media(root / "VideoFlash" / f"{name}.flv")
        media(root / "AudioWAV" / f"{name}.wav")
    return ["crema_d", "--protocol", "crema_d_folds", "--fold", "1"]


def msp_improv(root: Path, media: Media) -> list[str]:
    lines = []
    for session, category in ((3, "A"), (3, "N"), (2, "A"), (2, "N")):
        key, folder = f"S01{category}-F0{session}-S-FM01", f"session{session}/S01{category}/S"
        media(root / "Video" / folder / f"UTD-IMPROV-{key}.avi")
        media(root / "Audio" / folder / f"MSP-IMPROV-{key}.wav")
        lines.append(f"UTD-IMPROV-{key}.avi; {category}; A:2.5; V:3.5; D:3.0 ; N:4.0;\n\n")
    (root / "Evalution.txt").write_text("".join(lines))
    return ["msp_improv", "--protocol", "msp_improv_sessions"]


def own(root: Path, media: Media) -> list[str]:
    rows = ["path,speaker,split,label,valence"]
    for split in ("train", "dev"):
        for label in ("happy", "sad"):
            media(root / split / f"{label}.mp4")
            rows.append(f"{split}/{label}.mp4,{split[0]},{split},{label},{int(label == 'happy')}")
    (root / "mine.csv").write_text("\n".join(rows) + "\n")
    return ["csv"]


@pytest.mark.parametrize("layout", [ravdess, crema_d, msp_improv, own])
def test_from_the_published_layout_to_a_trained_step(
    layout: Callable[[Path, Media], list[str]],
    media: Media,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    name, *options = layout(root, media)
    main([name, "--root", str(root), "--out", str(out), "--jobs", "1", "--offline", *options])
    said = capsys.readouterr().out
    assert "clips a second" in said
    assert len((out / "failures.csv").read_text().splitlines()) == 1, (out / "failures.csv").read_text()
    for split in ("train", "dev"):
        clips = list(load_shards(out / "faces" / split))
        assert len(clips) == 2
        assert all(stored.clip.seen.mean() > 0.5 for stored in clips)
        assert {stored.meta["split"] for stored in clips} == {split}
        assert all(stored.meta["attributes"] or name == "crema_d" for stored in clips)
    prepare_voices.main(["--cache", str(out / "voices"), "--sessions", "1", "--jobs", "1"])
    step(out)


def step(out: Path) -> None:
    """One step of the windows stage, and its validation, on what was prepared."""
    torch.manual_seed(0)
    weights = out / "encoder.safetensors"
    save_file(FrameEncoder(**FRAME_ENCODER).state_dict(), weights)
    config: dict[str, Any] = {
        "frame_encoder_weights": str(weights), "frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL,
        "cache": str(out / "voices"), "clips": str(out / "clips" / "train"), "splits": ["train"],
        "dev_clips": str(out / "clips" / "dev"), "shares": [0.4, 0.3, 0.3], "steps": 1, "batch": 8,
        "label_smoothing": 0.0,
    }  # fmt: skip
    for split in ("train", "dev"):
        prepare_windows(config, out / "faces" / split, out / "clips" / split)
    stage = WindowsStage(config)
    before = {key: value.clone() for key, value in stage.network.named_parameters()}
    trained = [p for p in stage.network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    (batch,) = stage.batches(1)
    loss = stage.loss(stage.outputs(batch), batch)
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(before[key], value) for key, value in stage.network.named_parameters())
    assert 0 <= stage.validate(stage.network)["select"] <= 1


def run(root: Path, out: Path, **options: Any) -> Summary:
    with Progress(disable=True) as progress:
        return prepare(Request(set_name="csv", root=root, out=out, offline=True, **options), progress)


def test_a_run_goes_on_lists_failures_and_makes_anew_what_has_changed(media: Media, tmp_path: Path) -> None:
    media(tmp_path / "good.mp4")
    media(tmp_path / "blank.mp4", faces=False)
    media(tmp_path / "mute.mp4", sound=False)
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    names = ("good", "blank", "mute", "broken")
    table.write_text(
        "path,speaker,split,label\n" + "".join(f"{name}.mp4,{name},train,sad\n" for name in names)
    )
    first = run(table, out, jobs=2)
    assert (first.made, first.there, first.voices, first.faces["train"]) == (3, 0, 2, 1)
    with (out / "failures.csv").open(newline="") as rows:
        failed = {row["name"]: row for row in csv.DictReader(rows)}
    assert {name: row["sound_kept"] for name, row in failed.items()} == {
        "blank": "True", "mute": "False", "broken": "False",
    }  # fmt: skip
    assert "no face in its 16 pictures" in failed["blank"]["reason"]
    assert "no sound" in failed["mute"]["reason"]
    assert open_cache(out / "voices").names.tolist() == ["good", "blank"]
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*.np[yz]")}
    again = run(table, out)
    assert (again.made, again.there) == (0, 3)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.np[yz]")} == stamps
    media(tmp_path / "mute.mp4")  # now with sound
    (tmp_path / "out" / "voices" / "mel.npz").touch()
    mended = run(table, out)
    assert (mended.made, mended.there, mended.faces["train"]) == (1, 2, 2)
    assert not (out / "voices" / "mel.npz").exists()  # of other takes


def test_a_take_is_what_the_engine_sees_and_hears(media: Media, tmp_path: Path) -> None:
    media(tmp_path / "clip.mp4")
    media(tmp_path / "clip.wav")
    take = Take(
        file=tmp_path / "clip.mp4", sound=tmp_path / "clip.wav", corpus="made", speaker="made/1", label="sad",
        split="train",
    )  # fmt: skip
    bundle, finder = load_bundle(), HaarFinder()
    observed = observe(take, finder, bundle)
    assert observed.pictures == FRAMES
    assert len(observed.clip.seen) == FRAMES  # a tick a picture at 15 Hz
    assert observed.clip.seen.sum() == observed.found
    gaps = observed.clip.gap_ns[observed.clip.seen]
    assert gaps[0] == 0
    assert np.abs(gaps[2:] - 66_666_667).max() < 1_000_000
    assert len(observed.samples) == pytest.approx(16_000 * FRAMES / FRAMES_HZ, abs=2)
    quiet = np.abs(observed.samples.astype(int)) < 200
    assert np.argmin(quiet) == pytest.approx(0.2 * 16_000, abs=60)  # the tone begins where it did
    settings = settings_of(bundle, finder, None)
    store = Store.open(tmp_path / "out", settings)
    store.save(take, observed)
    np.testing.assert_array_equal(store.clip(take).crops, observed.clip.crops)
    np.testing.assert_array_equal(store.samples(take), observed.samples)
    assert store.sizes(take) == (FRAMES, len(observed.samples), FRAMES, observed.found)
    for changed in ({"finder": "other"}, {"flow": settings["flow"] | {"size": 28}}, {"code": "edited"}):
        assert not Store.open(tmp_path / "out", settings | changed).file(take).exists()
    assert json.loads((store.folder / "settings.json").read_text())["crop"]["size"] == 112


def test_work_outlives_a_process() -> None:
    crash = "__import__('os')._exit(1)"  # as a decoder that crashes
    answers = dict(run_all(["1", "2 * 2", crash, "3 * 3"], eval, jobs=2))
    assert isinstance(answers.pop(crash), Died)
    assert answers == {"1": 1, "2 * 2": 4, "3 * 3": 9}


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["ravdess"], "holds no RAVDESS takes"),
        (["crema_d", "--protocol", "nobody"], "holds no VideoFlash"),
        (["csv"], "holds 0 CSV files"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--root", str(tmp_path), "--out", str(tmp_path / "out")])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_published_take_of_ravdess_is_seen_and_heard(tmp_path: Path) -> None:
    data = Path(__file__).parents[2] / ".." / "shared" / "data"
    file, model = data / "ravdess_video" / "01-01-01-01-01-01-01.mp4", data / "yunet" / YUNET_FILE
    if not file.is_file() or not model.is_file():
        pytest.skip("the published take and YuNet's file are not beside the repository")
    folder = tmp_path / "Video_Speech_Actor_01" / "Actor_01"
    folder.mkdir(parents=True)
    (folder / file.name).symlink_to(file.resolve())
    (take,) = list_recordings(tmp_path)
    assert (take.speaker, take.label, take.attributes) == ("ravdess/01", "neutral", {"intensity": 0.0})
    observed = observe(take, YunetFinder(model.read_bytes()), load_bundle())
    assert observed.found == observed.pictures > 90
    assert observed.clip.seen.all()
    assert len(observed.samples) / 16_000 == pytest.approx(len(observed.clip.seen) / 15, abs=0.2)
