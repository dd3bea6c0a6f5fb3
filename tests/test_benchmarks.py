"""The benchmark's pieces do what they say, on small stand-ins. No figure is judged, only its presence."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flow as flow_benchmark
from benchmarks.clip import write_clip
from benchmarks.cost import AbsentEngineError, measure_engine, measure_window, open_backend, with_window
from benchmarks.latency import main
from benchmarks.machine import quantiles
from benchmarks.pipeline import measure_live, measure_throughput, mjpeg_camera
from benchmarks.signals import record
from engine.bundle import load_bundle
from engine.signals.finder import FaceFinder, load_finder
from engine.types import Block, Frame
from realtime.sources.media import open_media
from tests.engine.small_bundle import LABELS, O, V, write_bundle

NETWORK = {
    "frame_encoder": {
        "labels": len(LABELS), "appearance": V, "motion": O, "flow_size": 56,
        "appearance_channels": [8, 8, 8, 8], "motion_channels": [4, 4, 4], "dropout": 0.0,
    },
    "window_model": {
        "labels": len(LABELS), "appearance": V, "motion": O, "width": 16, "heads": 2, "kernel": 5,
        "blocks": 1, "sound_blocks": 1, "sound_channels": [4, 4, 4], "dropout": 0.0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 3.0)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return load_finder(offline=True)[0]


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantiles([float(value) for value in range(100, 0, -1)]) == {
        "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0, "n": 100,
    }  # fmt: skip
    assert quantiles([]) == {"n": 0}


def test_the_clip_has_picture_and_sound_of_its_length(clip: Path) -> None:
    items = list(open_media(str(clip), paced=False))
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.image.shape for frame in frames] == [(480, 640, 3)] * 90
    assert frames[-1].t_ns / 1e9 == pytest.approx(89 / 30, abs=1e-3)
    sound = sum(len(item.samples) for item in items if isinstance(item, Block)) / 16_000
    assert sound == pytest.approx(3.0, abs=0.15)


def test_an_engine_is_measured_against_its_whole_window(bundle: Path, finder: FaceFinder) -> None:
    found = measure_engine("onnx", bundle, finder, scores=2)
    assert set(found["windows"]) == {"4"}
    assert found["windows"]["4"]["ticks"] == 60
    assert found["off_parity"] < 1e-3
    assert found["parts_ms"]["frame_encoder"]["cpu"]["n"] == 10


def test_torch_stands_in_for_an_engine_at_any_length(tmp_path: Path, finder: FaceFinder) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    from trainer.model.de3 import DE3

    torch.manual_seed(3)
    safetensors.save_file(DE3(NETWORK).state_dict(), tmp_path / "model.safetensors")
    bundle = with_window(load_bundle(write_bundle(tmp_path, network=NETWORK)), 2.0, None)
    found = measure_window(open_backend("torch", bundle), bundle, record(bundle, finder, 1), 2)
    assert found["ticks"] == 30
    assert found["score_ms"]["cpu"]["n"] == 2


def test_an_engine_that_is_not_installed_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(AbsentEngineError, match="openvino"):
        open_backend("openvino", load_bundle(bundle))


def flags(bundle: Path, camera: str | Path) -> tuple[str, ...]:
    return ("--camera", str(camera), "--engine", "onnx", "--bundle", str(bundle), "--offline")


def test_a_camera_is_watched_from_capture_to_subscriber(bundle: Path, clip: Path) -> None:
    with mjpeg_camera(clip) as url:
        found = measure_live(flags(bundle, url), seconds=2.0, warm_s=0.2)
    assert set(found["cpu"]) >= {"main", "recogniser"}
    assert set(found["memory_mib"]) >= set(found["cpu"]) - {"other"}
    latency = found["latency_ms"]
    assert set(latency) == {"capture", "wait", "score", "publish", "total", "received"}
    assert all(figures["n"] == found["scores"] > 0 for figures in latency.values())
    assert latency["received"]["max"] >= latency["total"]["p50"]
    assert isinstance(found["drops"], dict)


def test_a_file_goes_through_whole(bundle: Path, clip: Path) -> None:
    found = measure_throughput(flags(bundle, clip), rate_hz=5, frames_hz=30)
    assert found["scores"] in (14, 15)
    assert found["drops"] == {}
    assert found["frames_hz"] == pytest.approx(6 * found["scores_hz"], abs=1)


def test_every_step_is_measured_and_the_last_line_is_json(
    bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--case", "stages", "--seconds", "0.5", "--bundle", str(bundle), "--clip", str(clip)]
    arguments += ["--json", str(tmp_path / "figures.json"), "--offline"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    report: dict[str, Any] = json.loads(lines[-1])
    assert report == json.loads((tmp_path / "figures.json").read_text())
    assert report["machine"]["cpu"]
    assert report["bundle"]["name"] == "small"
    steps = report["cases"]["stages"]["steps"]
    assert {step["process"] for step in steps} == {"demo", "media", "capture", "recogniser", "main"}
    assert all(step["ms"]["n"] and any(step["step"] in line for line in lines) for step in steps)


def test_flow_is_compared_with_or_without_a_gpu(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--bundle", str(bundle), "--json", str(tmp_path / "figures.json"), "--offline"]
    assert flow_benchmark.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    report: dict[str, Any] = json.loads(lines[-1])
    assert report == json.loads((tmp_path / "figures.json").read_text())
    (warps,) = report["error"]
    assert warps["pairs"] == 4
    assert warps["from_truth_px"].keys() >= {"opencv", "reference"}
    assert [row["pairs"] for row in report["time"]] == [1, 4]
    gpu = isinstance(report["gpu"], str)
    assert all(("gpu_ms" in row) == gpu for row in report["time"])
    assert gpu or any("No GPU figures: numba" in line for line in lines)


def test_without_a_bundle_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "demo", "--bundle", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
