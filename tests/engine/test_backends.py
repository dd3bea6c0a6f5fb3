"""Which engine is taken and why, and what every CPU engine does with rings, batches and baselines."""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from opened_engines import opened
from small_bundle import write_bundle

import engine.backends
from engine.backends import choose
from engine.backends.base import LARGEST_BATCH, GraphBackend
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle, load_bundle
from engine.errors import BackendError
from engine.types import Face, Float32
from engine.window import Window

MS = 1_000_000


def faces(count: int, seed: int = 0) -> list[Face]:
    """Smooth pictures that move a little."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = rng.uniform(0, 255, (8, 8))
        crop = np.kron(coarse, np.ones((14, 14))).astype(np.uint8)
        found.append(
            Face(
                crop=crop,
                previous=np.roll(crop, rng.integers(-3, 4, 2), axis=(0, 1)),
                gap_ns=66 * MS,
                box=(0, 0, 1, 1),
                confidence=1,
                track=0,
            )
        )
    return found


def window_at(
    bundle: Bundle, end: int, mask: "NDArray[np.bool_] | None" = None, final: int | None = None
) -> Window:
    """All ticks seen (or `mask`), sound drawn from a seed."""
    rng = np.random.default_rng(end)
    spec = bundle.window
    return Window(
        t_end_ns=0,
        end_tick=end,
        final_tick=end if final is None else final,
        video_mask=np.ones(spec.ticks, dtype=np.bool_) if mask is None else mask,
        mel=rng.standard_normal((spec.bins, bundle.mel.bands)).astype(np.float32) * 2 - 8,
        voice_tokens=rng.standard_normal(bundle.sound_shape).astype(np.float32),
        audio_mask=np.ones(spec.bins, dtype=np.bool_),
        voice_baseline=bundle.baseline.voice_mean,
        voice_weight=0.5,
        track=0,
        face=None,
    )


class Counting(OnnxBackend):
    """ONNX Runtime that counts the faces it encodes."""

    encoded = 0
    largest = 0

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        self.encoded += len(crop)
        self.largest = max(self.largest, len(crop))
        return super().encode(crop, flow)


def test_the_engine_asked_for_is_taken(small: Bundle, engine: str) -> None:
    opened(small, engine)
    choice = choose(small, engine)
    assert choice.backend.name == engine
    assert choice.reason.startswith(f"{engine}: asked for")


def test_an_unknown_engine_is_refused_by_name(small: Bundle) -> None:
    with pytest.raises(ValueError, match="'cuda' is none of auto, tensorrt, inductor, onnx-cuda, onnx"):
        choose(small, "cuda")


def _measure_briefly(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Both engines on the CPU are measured anew, and what was found is kept there."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(engine.backends, "MEASURE_S", 0.05)


def test_auto_measures_once_and_remembers(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measure_briefly(monkeypatch, tmp_path)
    first = choose(small)
    assert "measured now" in first.reason
    (file,) = tmp_path.rglob("engines.json")
    ((key, times),) = json.loads(file.read_text()).items()
    assert small.digest in key
    assert set(times) == {"onnx", "openvino"}
    assert choose(small).backend.name == first.backend.name
    for openvino_ms, taken in ((8.9, "openvino"), (9.1, "onnx")):
        file.write_text(json.dumps({key: {"onnx": 10.0, "openvino": openvino_ms}}))
        later = choose(small)
        assert later.backend.name == taken
        assert "measured earlier" in later.reason
    file.write_text('{"spoilt')
    assert "measured now" in choose(small).reason


def test_auto_does_without_what_is_not_installed(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openvino", "tensorrt"):
        monkeypatch.setitem(sys.modules, package, None)
    assert choose(small).reason == "onnx: the only engine installed"
    with pytest.raises(BackendError, match=r"pip install .*openvino"):
        choose(small, "openvino")


def test_auto_takes_onnx_where_openvino_is_installed_but_broken(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    reason = choose(small).reason
    assert reason.startswith("onnx: openvino does not run here: OpenVINO cannot be imported (libtbb.so.12 is")


def test_auto_measures_whatever_wheel_brings_the_engines(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu brings the module onnxruntime; no wheel has that name then."""
    _measure_briefly(monkeypatch, tmp_path)
    version = importlib.metadata.version

    def of_a_wheel(package: str) -> str:
        if package == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", of_a_wheel)
    assert "measured now" in choose(small).reason


def test_auto_works_where_nothing_can_be_kept(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    _measure_briefly(monkeypatch, tmp_path / "file")
    assert "measured now" in choose(small).reason


@pytest.mark.parametrize("engine", ["onnx", "openvino"], indirect=True)
def test_a_graph_that_an_engine_cannot_run_is_named(small: Bundle, tmp_path: Path, engine: str) -> None:
    folder = write_bundle(tmp_path)
    bundle = load_bundle(folder)
    data = (folder / "frame_encoder.onnx").read_bytes()
    (folder / "frame_encoder.onnx").write_bytes(data.replace(b"AveragePool", b"AveragePoor"))
    with pytest.raises(BackendError, match=r"does not run .*frame_encoder\.onnx"):
        choose(bundle, engine)


def test_every_face_is_encoded_once_in_bounded_batches(small: Bundle) -> None:
    backend = Counting(small)
    shown = faces(60)
    backend.observe([0] * 60, range(60), shown)
    for end in (57, 60, 60):
        backend.score([0], [window_at(small, end)])
    assert backend.encoded == 60
    assert backend.largest == LARGEST_BATCH


def test_a_batch_of_faces_and_windows_equals_each_alone(backend: GraphBackend, any_bundle: Bundle) -> None:
    together, alone = backend, opened(any_bundle, backend.name)
    shown = faces(12)
    slots, ticks = [0, 1, 2] * 4, [tick for tick in range(56, 60) for _ in range(3)]
    together.observe(slots, ticks, shown)
    for i in range(12):
        alone.observe(slots[i : i + 1], ticks[i : i + 1], shown[i : i + 1])
    mask = np.arange(any_bundle.window.ticks) >= any_bundle.window.ticks - 4
    windows = [window_at(any_bundle, 60, mask) for _ in range(3)]
    batch = together.score([0, 1, 2], windows).logits
    singles = np.concatenate([alone.score([slot], [windows[slot]]).logits for slot in range(3)])
    assert batch.shape == (3, 3, len(any_bundle.labels))
    assert np.abs(batch - singles).max() < 1e-4
    assert np.abs(batch[0] - batch[1]).max() > 1e-3


def test_tokens_may_run_ahead_of_the_window(small: Bundle) -> None:
    prompt, ahead = OnnxBackend(small), OnnxBackend(small)
    shown = faces(small.window.ring_ticks)
    prompt.observe([0] * 60, range(60), shown[:60])
    ahead.observe([0] * len(shown), range(len(shown)), shown)
    window = window_at(small, 60)
    assert np.allclose(prompt.score([0], [window]).logits, ahead.score([0], [window]).logits, atol=1e-5)


def test_the_baseline_learns_final_ticks_once_in_their_order(small: Bundle) -> None:
    shown = faces(60)
    often, once = OnnxBackend(small), OnnxBackend(small)
    for backend in (often, once):
        backend.observe([0] * 60, range(60), shown)
    mask = np.ones(60, dtype=np.bool_)
    for end in (15, 30, 30, 45):
        early = np.arange(end - 60, end) >= 0
        often.score([0], [window_at(small, end, early, final=end - 2)])
    last = window_at(small, 60, mask)
    assert np.allclose(often.score([0], [last]).logits, once.score([0], [last]).logits, atol=1e-6)
    weight = often._slot(0).baseline.weight
    assert weight == once._slot(0).baseline.weight == pytest.approx(4 / 6)


def test_a_reset_forgets_the_face_unless_told_to_keep_it(small: Bundle) -> None:
    backend = OnnxBackend(small)
    backend.observe([0] * 60, range(60), faces(60))
    fresh = OnnxBackend(small)
    blind = window_at(small, 60, np.zeros(60, dtype=np.bool_))
    backend.score([0], [window_at(small, 60)])
    learned = backend._slot(0).baseline.mean
    backend.reset(0, keep_baseline=True)
    backend.score([0], [blind])
    assert np.array_equal(backend._slot(0).baseline.mean, learned)
    backend.reset(0)
    backend.score([0], [blind])
    fresh.score([0], [blind])
    assert np.array_equal(backend._slot(0).baseline.mean, fresh._slot(0).baseline.mean)
    assert backend._slot(0).baseline.weight == 0


def test_a_bundle_without_attributes_gives_none(backend: GraphBackend, any_bundle: Bundle) -> None:
    assert backend.score([0], [window_at(any_bundle, 60)]).attributes.shape == (1, 3, 0)


def test_attributes_are_those_of_the_graph(rated: Bundle, engine: str) -> None:
    backend = opened(rated, engine)
    with np.load(rated.parity) as samples:
        inputs = {key[7:]: value for key, value in samples.items() if key.startswith("window_")}
        expected = samples["answer_attributes"]
    found = backend.answers(inputs).attributes
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (3, 3, 2)
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1


def test_a_score_that_is_not_a_number_is_an_error(small: Bundle, engine: str) -> None:
    backend = opened(small, engine)
    window = window_at(small, 60)
    window.mel[5, 5] = np.nan
    with pytest.raises(BackendError, match=r"not a number, from .*window_model\.onnx"):
        backend.score([0], [window])
