"""Moving faces: points that follow a voice, stills that follow points, clips as the engine would see them."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_windows import FRAME_ENCODER, windows_config

from engine.signals.align import TEMPLATE, similarity, warp
from trainer import clip_sets, prepare, prepare_voices, prepare_windows
from trainer.data import nemo, ravdess
from trainer.data.sound import decode, write_cache
from trainer.data.takes import Take
from trainer.expressions import MIRROR, offsets_of
from trainer.face_mesh import LIP_PAIRS, FaceMesh, similarities
from trainer.labels import LABELS
from trainer.model.frame_encoder import FrameEncoder
from trainer.motion import HELD_ACTORS, MotionLibrary, loudness, stabilised, time_warp
from trainer.moving_faces import TICK_HZ, BorrowedStill, MovingClip, chosen_pictures, draw_person, make_clip
from trainer.stage_windows import WindowsStage

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the repository")


def face_shape() -> np.ndarray:
    """(68, 2) a mean face that is near enough to a measured one, symmetric."""
    shape = np.zeros((68, 2), np.float32)
    angle = np.linspace(np.pi, 0, 17)
    shape[:17] = np.stack((1.1 * np.cos(angle), 1.85 * np.sin(angle)), 1)
    shape[17:27] = [(x, -0.38 + 0.15 * abs(abs(x) - 0.55)) for x in (-0.9, -0.75, -0.55, -0.38, -0.2)] + [
        (x, -0.38 + 0.15 * abs(abs(x) - 0.55)) for x in (0.2, 0.38, 0.55, 0.75, 0.9)
    ]
    shape[27:31] = [(0, 0), (0, 0.2), (0, 0.4), (0, 0.55)]
    shape[31:36] = [(-0.25, 0.7), (-0.12, 0.74), (0, 0.76), (0.12, 0.74), (0.25, 0.7)]
    eye = np.array([(-0.2, 0.01), (-0.07, -0.06), (0.07, -0.06), (0.2, 0.01), (0.07, 0.05), (-0.07, 0.05)])
    shape[36:42] = eye + np.array((-0.5, 0))
    shape[42:48] = eye + np.array((0.5, 0))
    angle = np.linspace(np.pi, -np.pi, 13)[:12]
    shape[48:60] = np.stack((0.45 * np.cos(angle), 1.1 - 0.18 * np.sin(angle)), 1)
    angle = np.linspace(np.pi, -np.pi, 9)[:8]
    shape[60:68] = np.stack((0.36 * np.cos(angle), 1.1 - 0.03 * np.sin(angle)), 1)
    return shape


POINTS = (TEMPLATE * 2 + (10, 20)).astype(np.float32)


def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (300, 280), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 6)


def test_similarities_are_the_engines() -> None:
    points = np.random.default_rng(0).normal(0, 30, (20, 5, 2)).astype(np.float32)
    ours = similarities(points, TEMPLATE)
    assert np.allclose(ours, [similarity(five) for five in points], atol=1e-3)


def test_a_still_that_does_not_move_is_the_engines_crop() -> None:
    mesh = FaceMesh(picture(), POINTS, face_shape(), 1.0)
    painted = mesh.paint(mesh.moved(np.zeros((1, 68, 2), np.float32))[0], shade=0, teeth=0)
    expected = warp(picture(), similarity(POINTS))
    assert np.abs(painted[20:132, 20:132].astype(int) - expected).max() <= 4


def test_what_is_moved_is_found_where_it_was_moved_to() -> None:
    shape = face_shape()
    mesh = FaceMesh(picture(), POINTS, shape, 1.0)
    down = np.zeros((1, 68, 2), np.float32)
    down[0, 17:27, 1] = -0.1
    rest = mesh.moved(np.zeros_like(down))[0]
    moved = mesh.moved(down)[0]
    still, raised = mesh.paint(rest, 0, 0), mesh.paint(moved, 0, 0)
    for point in (18, 19, 24, 25):
        (x0, y0), (x1, y1) = np.round(rest[point] + 20).astype(int), np.round(moved[point] + 20).astype(int)
        assert abs(int(still[y0, x0]) - int(raised[y1, x1])) <= 12
    assert np.array_equal(still[120:, :], raised[120:, :])


def test_an_opening_mouth_is_dark_inside() -> None:
    mesh = FaceMesh(picture(), POINTS, face_shape(), 1.0)
    opened = mesh.moved(offsets_of("jaw_drop")[None] * np.float32(1.5))[0]
    x, y = np.round((opened[62] + opened[66]) / 2 + 20).astype(int)
    assert int(mesh.paint(opened, 1.0, 0)[y, x]) < int(mesh.paint(opened, 0, 0)[y, x]) - 20


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.3))
def test_lips_do_not_cross(seed: int, size: float) -> None:
    mesh = FaceMesh(picture(), POINTS, face_shape(), 0.5)
    offsets = np.random.default_rng(seed).normal(0, size, (3, 68, 2)).astype(np.float32)
    moved = mesh.moved(offsets)
    assert np.isfinite(moved).all()
    for upper, lower in LIP_PAIRS:
        assert (moved[:, lower, 1] >= moved[:, upper, 1] - 0.05).all()


def test_mirror_is_its_own_inverse_and_patterns_are_symmetric() -> None:
    assert np.array_equal(MIRROR[MIRROR], np.arange(68))
    for name in ("brow_raise", "corner_up", "press", "jaw_drop", "nose_wrinkle"):
        offsets = offsets_of(name)
        assert np.allclose(offsets, offsets[MIRROR] * (-1, 1))


def test_stabilised_takes_head_motion_away() -> None:
    shape = face_shape()
    angle = np.linspace(-0.3, 0.3, 20)
    turn = np.stack([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angle])
    points = 80 * np.exp(angle)[:, None, None] * (shape @ turn.transpose(0, 2, 1)) + 300
    result = stabilised(points.astype(np.float32))
    assert np.abs(result - result[0]).max() < 1e-3
    assert np.allclose((result[0, 36:42].mean(0) + result[0, 42:48].mean(0)) / 2, 0, atol=1e-4)


def test_time_warp_finds_a_stretched_course() -> None:
    source = np.cumsum(np.random.default_rng(0).normal(0, 1, (80, 6)), axis=0).astype(np.float32)
    truth = np.interp(np.arange(110), (0, 40, 109), (0, 20, 79))
    low = np.minimum(truth.astype(int), 78)
    target = source[low] + (truth - low)[:, None].astype(np.float32) * (source[low + 1] - source[low])
    found = time_warp(source, target)
    assert (np.diff(found) >= 0).all()
    assert np.abs(found - truth).mean() < 1.0


def test_chosen_pictures_on_a_plain_camera() -> None:
    now, before = chosen_pictures(np.arange(0, 31) / 30 - 1 / 30, 10)
    assert (now >= 0).all()
    assert (before[1:] == now[:-1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.2, 2.0), max_size=60, unique=True))
def test_chosen_pictures_keep_their_bounds(times: list[float]) -> None:
    times_s = np.sort(np.array(times, np.float64))
    now, before = chosen_pictures(times_s, 30)
    for tick in range(30):
        middle = (tick + 0.5) / TICK_HZ
        if now[tick] < 0:
            assert not len(times_s) or np.abs(times_s - middle).min() >= 0.5 / TICK_HZ - 1e-9
            assert before[tick] < 0
            continue
        assert abs(times_s[now[tick]] - middle) <= 0.5 / TICK_HZ
        if before[tick] >= 0:
            assert 0.025 <= times_s[now[tick]] - times_s[before[tick]] <= 0.150


@pytest.fixture(scope="module")
def library() -> MotionLibrary:
    if not DATA.is_dir():
        pytest.skip("the data sets are not beside the repository")
    return MotionLibrary.load(DATA, HELD_ACTORS)


def opening_of(offsets: np.ndarray) -> np.ndarray:
    return (offsets[:, 65:68] - offsets[:, 61:64])[..., 1].mean(1)


@needs_data
def test_the_mouth_opens_with_the_voice(library: MotionLibrary) -> None:
    takes = [t for t in ravdess.list_takes(DATA / "ravdess", [17]) if t.label != "neutral"][::9]
    takes += [t for t in nemo.list_takes(DATA / "nemo") if t.speaker == "nemo/IC0"][::90]
    agreement = []
    for take in takes:
        samples = decode(take.file)
        motion = library.motion(np.random.default_rng(0), take, samples, take.label, 0.0)
        opening = opening_of(motion.offsets)
        loud = loudness(samples, np.arange(len(opening)) / motion.rate_hz)
        agreement.append(np.corrcoef(opening, loud)[0, 1])
        assert 0.03 < np.quantile(opening, 0.95) < 0.8
    assert np.mean(agreement) > 0.5


@needs_data
def test_labels_move_what_they_should(library: MotionLibrary) -> None:
    take = ravdess.list_takes(DATA / "ravdess", [17])[20]
    samples = decode(take.file)

    def mean_offsets(label: str) -> np.ndarray:
        rngs = [np.random.default_rng(seed) for seed in range(24)]
        return np.mean([library.motion(r, take, samples, label, 1.0).offsets.mean(0) for r in rngs], axis=0)

    means = {label: mean_offsets(label) for label in LABELS}
    corner = {label: float(mean[[48, 54], 1].mean()) for label, mean in means.items()}
    brow = {label: float(mean[17:27, 1].mean()) for label, mean in means.items()}
    assert corner["happy"] == min(corner.values())
    assert corner["happy"] < corner["sad"] - 0.05
    assert min(brow, key=lambda label: brow[label]) in ("surprised", "fearful")
    assert brow["angry"] > brow["neutral"]


def a_clip(library: MotionLibrary, seed: int) -> MovingClip:
    take = ravdess.list_takes(DATA / "ravdess", [18])[30]
    still = BorrowedStill(picture=picture(), points=POINTS, label="neutral")
    rng = np.random.default_rng(seed)
    return make_clip(rng, still, take, decode(take.file), "motion", library, draw_person(rng))


@needs_data
def test_a_clip_is_as_the_engine_would_see_it(library: MotionLibrary) -> None:
    clips = [a_clip(library, seed) for seed in range(6)]
    for clip in clips:
        ticks = len(clip.seen)
        assert clip.crops.shape == clip.previous.shape == (ticks, 112, 112)
        assert clip.crops.dtype == clip.previous.dtype == np.uint8
        assert not clip.crops[~clip.seen].any()
        assert (clip.gap_ns[~clip.seen] == 0).all()
        paired = clip.gap_ns > 0
        assert ((clip.gap_ns[paired] >= 25_000_000) & (clip.gap_ns[paired] <= 150_000_000)).all()
        alone = clip.seen & ~paired
        assert np.array_equal(clip.crops[alone], clip.previous[alone])
    assert sum(clip.seen.mean() for clip in clips) > 4
    again = a_clip(library, 3)
    assert np.array_equal(again.crops, clips[3].crops)
    assert np.array_equal(again.previous, clips[3].previous)


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """All sounds and tracks, laid out as published, but few stills, so that faces are found in seconds."""
    if not DATA.is_dir():
        pytest.skip("the data sets are not beside the repository")
    root = tmp_path / "data"
    root.mkdir()
    for name in ("ravdess_landmarks", "ravdess_action_units"):
        (root / name).symlink_to((DATA / name).resolve())
    for file in (DATA / "ravdess").resolve().glob("Actor_*/*.ogg"):
        link = root / "ravdess" / "Audio_Speech_Actors_01-24" / file.parent.name / f"{file.stem}.wav"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (root / "nemo").mkdir()
    (root / "nemo" / "samples").symlink_to((DATA / "nemo").resolve())
    (root / "nemo" / "data.tsv").symlink_to((DATA / "nemo" / "data.tsv").resolve())
    for folder, table in (("ferplus", "index.csv"), ("lfw_expressions", "labels.csv")):
        (root / folder).mkdir()
        for item in (DATA / folder).resolve().iterdir():
            if item.name != table:
                (root / folder / item.name).symlink_to(item)
        with (DATA / folder / table).open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = rows[:40]
        if folder == "ferplus":
            kept = []
            for label in LABELS:
                clear = [r for r in rows if r["split"] == "dev" and int(r[label]) >= 6]
                kept += clear[:8]
        with (root / folder / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(kept)
    return root


def test_a_set_is_balanced_resumed_and_read_back(small_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    call = ["--root", str(small_data), "--out", str(out), "--split", "dev", "--clips", "43", "--jobs", "1"]
    prepare.main(["moving_faces", *call])
    clips = list(clip_sets.load_shards(out))
    assert len(clips) == 43
    assert (out / "sheet.png").is_file()
    counts = [sum(stored.meta["label"] == label for stored in clips) for label in LABELS]
    assert max(counts) - min(counts) <= 3
    assert {stored.meta["speaker"] for stored in clips} <= {
        *(f"ravdess/{actor}" for actor in ravdess.DEV_ACTORS),
        *(f"nemo/{name}" for name in nemo.DEV_SPEAKERS),
    }
    groups: dict[int, list[dict[str, object]]] = {}
    for stored in clips:
        groups.setdefault(stored.meta["group"], []).append(stored.meta)
    for metas in groups.values():
        assert len({meta["speaker"] for meta in metas}) == 1
        if metas[0]["mode"] == "motion":
            assert len({meta["still"] for meta in metas}) == 1
    shards = sorted(out.glob("shard_*.npz"))
    assert len(shards) == 2
    shards[1].unlink()
    clip_sets.main(call)
    for before, after in zip(clips, clip_sets.load_shards(out), strict=True):
        assert before.meta == after.meta
        assert np.array_equal(before.clip.crops, after.clip.crops)
    with pytest.raises(SystemExit):
        clip_sets.main([*call, "--seed", "9"])
    takes = {take.name: take for take in clip_sets.voices_of(small_data, "dev")}
    a_step(tmp_path, [takes[name] for name in sorted({stored.meta["voice"] for stored in clips})])


def test_faces_may_speak_with_the_voices_of_named_speakers(small_data: Path) -> None:
    named = ["nemo/WR0", "ravdess/13"]
    assert {take.speaker for take in clip_sets.voices_of(small_data, "train", named)} == {*named}
    with pytest.raises(ValueError, match="There is no voice of ravdess/99"):
        clip_sets.voices_of(small_data, "train", [*named, "ravdess/99"])


def a_step(folder: Path, takes: list[Take]) -> None:
    """Tokens of the moving faces in `folder/set`, and a step of the windows stage with these voices."""
    torch.manual_seed(0)
    save_file(FrameEncoder(**FRAME_ENCODER).state_dict(), folder / "encoder.safetensors")
    prepare_voices.prepare(folder / "voices", write_cache(takes, folder / "voices"), 1, 1)
    config = windows_config(folder) | {
        "frame_encoder_weights": str(folder / "encoder.safetensors"), "clips": str(folder / "tokens"),
        "dev_clips": str(folder / "tokens"), "splits": ["dev"], "steps": 1, "batch": 8,
    }  # fmt: skip
    prepare_windows.prepare(config, folder / "set", folder / "tokens")
    stage = WindowsStage(config)
    before = {key: value.clone() for key, value in stage.network.named_parameters()}
    (batch,) = stage.batches(1)
    assert batch.video_mask.any()
    stage.loss(stage.outputs(batch), batch).backward()
    learned = {key: value for key, value in stage.network.named_parameters() if value.grad is not None}
    torch.optim.AdamW(learned.values(), lr=1e-3).step()
    moved = {key for key, value in learned.items() if not torch.equal(before[key], value)}
    assert any(key.startswith("frame_encoder.motion.") for key in moved)
    assert any(key.startswith("window_model.heads.") for key in moved)
