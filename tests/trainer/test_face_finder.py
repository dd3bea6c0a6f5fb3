"""The face finder's training: what is drawn, what is asked for, what is exported, and who carries it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from engine.bundle import DEFAULT_BUNDLE, load_bundle
from engine.signals.align import similarity
from engine.signals.face_networks import ALIGNER_TEMPLATE, LEVELS, SCALES, STRIDES, FinderNetwork
from engine.signals.finder import load_finder
from realtime.sources.demo import FRAMES_HZ, Performance
from tests.engine.small_bundle import write_bundle
from trainer.carried_faces import FILES, carry, faces_of
from trainer.finder import train as training
from trainer.finder.export import write_graphs
from trainer.finder.network import CHANNELS, Aligner, Finder
from trainer.finder.scenery import Source
from trainer.finder.scenes import crop, scene
from trainer.finder.targets import targets
from trainer.finder.teacher import SPLIT, Seen


@pytest.fixture(scope="module")
def seen() -> Seen:
    """The demo's face as a clip, as photographs and as tiles, with what the shipped finder sees in it."""
    finder, demo = load_finder(offline=True)[0], Performance()
    pictures, faces, kinds = [], [], []
    for kind, size in (("clip", (320, 240)), ("lfw", (200, 150)), ("ferplus", (200, 150))):
        for second in (0, 5, 9):
            picture = cv2.resize(demo.picture(second * FRAMES_HZ), size, interpolation=cv2.INTER_AREA)
            grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
            (face,) = finder.find(grey)
            pictures.append(grey)
            kinds.append(kind)
            faces.append(np.array([[*face.box, *face.points.ravel(), 0.9]], np.float32))
    return Seen(pictures, np.array(kinds), np.zeros(len(kinds), bool), faces)


def test_what_was_seen_is_kept_as_it_is(seen: Seen, tmp_path: Path) -> None:
    seen.write(tmp_path / "seen.npz")
    again = Seen.read(tmp_path / "seen.npz")
    assert again.kinds.tolist() == seen.kinds.tolist()
    for one, other in zip((*seen.pictures, *seen.faces), (*again.pictures, *again.faces), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_split_keeps_clips_apart() -> None:
    split = json.loads(SPLIT.read_text())
    groups = [split[name] for name in ("train", "dev", "held_out", "nobody")]
    names = [name for group in groups for name in group]
    assert len(set(names)) == len(names)
    assert not any("real_faces" in name for name in names)


@pytest.mark.parametrize(
    ("side", "levels"), [(18, {8}), (42, {8, 16}), (70, {16}), (95, {16, 32}), (150, {32})]
)
def test_a_face_is_asked_for_at_the_levels_of_its_size(side: int, levels: set[int]) -> None:
    """And what is asked for there is the face, to the pixel, when it is read as the engine reads answers."""
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * side + (40, 20)
    face = np.array([40, 20, side, 1.2 * side, *points.ravel(), 0.9], np.float32)
    truth, value = targets(face[None], 192, 224)
    sizes = [(192 // stride) * (224 // stride) for stride in STRIDES]
    by_level = np.split(truth, np.cumsum(sizes)[:-1])
    assert {stride for stride, part in zip(STRIDES, by_level, strict=True) if (part == 1).any()} == levels
    cells = [np.full((1, CHANNELS, 192 // s, 224 // s), -9, np.float32) for s in STRIDES]
    values = np.split(value, np.cumsum(sizes)[:-1])
    for cell, part, asked in zip(cells, by_level, values, strict=True):
        flat = cell.reshape(CHANNELS, -1)
        flat[0, part == 1] = 5
        flat[1:, part == 1] = asked[part == 1, :14].T
    engine = FinderNetwork.__new__(FinderNetwork)
    engine._session, engine._grids = Answering(cells), {}
    (found,) = engine.find(np.zeros((192, 224), np.uint8), 0.5)
    np.testing.assert_allclose(found[:14], face[:14], atol=0.01)


class Answering:
    """A session that gives the same cells to whatever it is asked."""

    def __init__(self, cells: list[np.ndarray]) -> None:
        self._cells = cells

    def run(self, names: list[str], _: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert tuple(names) == LEVELS
        return self._cells


def test_scenes_and_crops_know_where_their_faces_are(seen: Seen) -> None:
    """The same from the same seed; the points of every face lie as those of an upright, unmirrored one."""
    source = Source.of(seen, dev=False)
    faces = 0
    for seed in range(40):
        picture, rows = scene(np.random.default_rng(seed), source, 128, 160)
        again, same = scene(np.random.default_rng(seed), source, 128, 160)
        np.testing.assert_array_equal(picture, again)
        np.testing.assert_array_equal(rows, same)
        assert (picture.shape, picture.dtype) == ((128, 160), np.uint8)
        for row in rows[rows[:, 14] >= 0.6]:
            faces += 1
            points = row[4:14].reshape(5, 2)
            matrix = similarity(points, ALIGNER_TEMPLATE)
            laid = points @ matrix[:, :2].T + matrix[:, 2]
            assert np.abs(laid - ALIGNER_TEMPLATE).max() < 6  # mirrored, the corners would be 20 away
            assert abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) < 60
            assert ((points > row[:2] - 0.2 * row[2:4]) & (points < row[:2] + 1.2 * row[2:4])).all()
    assert faces > 20
    drawn = [crop(np.random.default_rng(seed), source) for seed in range(60)]
    shown = [(image, place) for image, place, face in drawn if face]
    assert 25 < len(shown) < 60
    for image, place in shown:
        assert image.shape == (80, 80)
        assert ((place[4:] > -15) & (place[4:] < 95)).all()
    assert SCALES[0] < SCALES[1] < SCALES[2]


@pytest.mark.parametrize("name", ["finder", "aligner"])
def test_a_broken_training_goes_on_as_if_it_had_not_been(
    name: str, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PIXELS", 2 * 128 * 160)
    monkeypatch.setattr(training, "CROPS", 4)
    monkeypatch.setattr(training, "KEEP_EVERY", 1)
    monkeypatch.setattr(training, "SIZES", ((64, 96),))
    file, console = tmp_path / "seen.npz", Console(quiet=True)
    seen.write(file)
    whole = load_file(training.train(name, file, tmp_path / "whole", 3, 5, console))
    real = training._keep

    def broken(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if arguments[2] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_keep", broken)
    with pytest.raises(KeyboardInterrupt):
        training.train(name, file, tmp_path / "parts", 3, 5, console)
    monkeypatch.setattr(training, "_keep", real)
    parts = load_file(training.train(name, file, tmp_path / "parts", 3, 5, console))
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_what_is_exported_answers_as_the_networks_do(tmp_path: Path) -> None:
    """At half-precision weights, and small enough."""
    torch.manual_seed(3)
    networks = {"finder": Finder().eval(), "aligner": Aligner().eval()}
    for name, network in networks.items():
        for parameter in network.parameters():
            parameter.data = parameter.data.half().float()
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    write_graphs(tmp_path, tmp_path)
    assert (tmp_path / FILES["finder"]).stat().st_size < 1_000_000
    assert (tmp_path / FILES["aligner"]).stat().st_size < 500_000
    picture = np.random.default_rng(0).integers(0, 256, (96, 160), np.uint8)
    engine = FinderNetwork((tmp_path / FILES["finder"]).read_bytes())
    answers = engine._session.run(list(LEVELS), {"picture": picture[None, None]})
    with torch.inference_mode():
        wanted = networks["finder"](torch.from_numpy(picture)[None, None].float())
    for answer, want in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(answer, want.numpy(), atol=0.01)


def test_a_bundle_that_is_exported_onto_itself_keeps_its_finder(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "own")
    carry(DEFAULT_BUNDLE, bundle)
    told = faces_of(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["faces"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert carry(bundle, bundle, told)
    assert load_bundle(bundle).faces is not None


def test_a_finder_is_carried_from_one_bundle_into_another(tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other")
    before = json.loads((other / "manifest.json").read_text())
    assert carry(DEFAULT_BUNDLE, other)
    carried = load_bundle(other)
    assert carried.faces is not None
    assert load_finder(offline=True, bundle=carried)[0].digest == load_finder(offline=True)[0].digest
    after = json.loads((other / "manifest.json").read_text())
    assert {key: value for key, value in after.items() if key not in ("faces", "files")} == {
        key: value for key, value in before.items() if key != "files"
    }
    assert after["files"].items() > before["files"].items()
    assert not carry(write_bundle(tmp_path / "without"), other)
    shutil.rmtree(tmp_path / "without")
    assert not carry(tmp_path / "without", other)
