"""The streams' benchmark: its schedule, its search and its loop. No figure is judged, only its making."""

import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import load, throughput
from benchmarks.arrivals import Rhythm, arrivals, phase_ns
from benchmarks.crops import write_crops
from benchmarks.eager import AnewBackend, TorchBackend
from benchmarks.engines import ANEW, NOTHING, names, open_engine
from benchmarks.load import Cameras, Trial, memory_kib
from benchmarks.search import Search
from benchmarks.signals import CROPS, Recording, read_crops, recorded
from benchmarks.throughput import stream_second_ms
from engine.backends import ENGINES
from engine.bundle import Bundle, load_bundle
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Observation
from engine.window import Timeline
from tests.engine.small_bundle import write_bundle
from tests.test_benchmarks import NETWORK

RHYTHM = Rhythm()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


@pytest.fixture(scope="module")
def recording(bundle: Bundle) -> Recording:
    return recorded(bundle)


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_every_stream_brings_its_rates_and_all_are_spread_evenly(streams: int) -> None:
    coming = arrivals(streams, 3.0, RHYTHM)
    assert coming == sorted(coming, key=lambda each: each.at_ns)
    for stream in range(streams):
        mine = [each for each in coming if each.stream == stream]
        second = [each.kind for each in mine if SECOND_NS <= each.at_ns < 2 * SECOND_NS]
        assert (second.count("crop"), second.count("block")) == (15, 50)
        crops = [each.number for each in mine if each.kind == "crop"]
        assert crops == list(range(len(crops)))
    phases = [phase_ns(stream, streams, RHYTHM) for stream in range(streams)]
    assert np.ptp(np.diff([*phases, SECOND_NS // RHYTHM.score_hz])) <= 1


def test_processes_share_the_streams() -> None:
    whole = arrivals(5, 1.0, RHYTHM)
    parts = [arrivals(5, 1.0, RHYTHM, range(first, 5, 2)) for first in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_sound_is_there_before_the_crop_that_ends_its_window(bundle: Bundle) -> None:
    """So a score waits for nothing but its last crop."""
    timeline = Timeline(bundle)
    ends = 0
    for each in arrivals(1, 4.0, RHYTHM):
        if each.kind == "block":
            samples = np.zeros(16_000 // RHYTHM.blocks_hz, np.float32)
            begin_ns = each.number * SECOND_NS // RHYTHM.blocks_hz
            timeline.push_block(Block(t_ns=begin_ns, seq=each.number, samples=samples))
        elif (each.number + 1) % 3 == 0:
            assert timeline.audio_bound_ns >= (each.number + 1) * SECOND_NS // RHYTHM.tick_hz
            ends += 1
    assert ends == 19


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 40, 613, 5000])
def test_the_search_finds_the_most_that_holds(limit: int) -> None:
    search, tried = Search(most=1000), []
    while (count := search.next()) is not None:
        tried.append(count)
        search.told(count, count <= limit, count / max(2 * limit, 1))
    reached = min(limit, 1000)
    assert reached - max(1, reached // 16) < search.held <= reached
    assert len(tried) < 16
    assert len(set(tried)) == len(tried)


def test_a_trial_is_sustained_by_what_came_through_in_time() -> None:
    def trial(**changes: Any) -> Trial:
        return Trial(**{"streams": 4, "wanted": 100, "crops": 300, "latency_ms": [20.0] * 100, **changes})

    assert trial().sustained
    assert trial(latency_ms=[20.0] * 95 + [80.0] * 5).sustained
    assert not trial(latency_ms=[20.0] * 94 + [80.0] * 6).sustained
    assert not trial(latency_ms=[20.0] * 98).sustained
    assert not trial(thinned=4).sustained
    assert not trial(wanted=0, latency_ms=[]).sustained
    whole = trial(processes=0)
    whole.add(trial(latency_ms=[60.0] * 100))
    assert not whole.sustained
    assert whole.figures()["wanted_scores"] == 200


def test_what_one_more_stream_costs() -> None:
    few = Trial(streams=1, wanted=10, latency_ms=[1.0] * 10, wall_s=2.0, busy_s=0.4, cpu_s=0.2)
    many = Trial(streams=5, wanted=50, latency_ms=[1.0] * 50, wall_s=2.0, busy_s=1.2, cpu_s=1.0)
    assert stream_second_ms([many, few]) == {"busy": 100.0, "cpu": 100.0}
    assert stream_second_ms([few]) == {"busy": 200.0, "cpu": 100.0}
    # two scores of ten in two seconds, never asleep: five would take five seconds
    slow = Trial(streams=1, wanted=10, latency_ms=[900.0] * 2, wall_s=2.0, busy_s=2.0, cpu_s=2.0)
    assert stream_second_ms([slow]) == {"busy": 5000.0, "cpu": 5000.0}
    assert stream_second_ms([Trial(streams=1, wanted=10)]) is None


def test_cameras_are_served_as_they_come(bundle: Bundle, recording: Recording) -> None:
    recognition = Recognition(bundle, open_engine("onnx", bundle).backend)
    recognition.warm_up()
    trial = Trial(streams=3)
    while not trial.latency_ms:  # where others hold both cores, a trial may come too late for every window
        cameras = Cameras(recognition, recording, 3, [0, 2], time.monotonic_ns())
        trial = cameras.run(0.4, 0.6)
        cameras.close()
        assert trial.wanted == 2 * 0.6 * RHYTHM.score_hz
        assert trial.crops == 2 * 0.6 * RHYTHM.tick_hz
    assert len(trial.latency_ms) <= trial.wanted
    assert min(trial.latency_ms) > 0
    assert 0 < trial.busy_s <= trial.wall_s
    assert recognition.take_slot() == 0, "the slots were handed back"
    assert memory_kib(recognition, recording, None) >= 0


def test_computing_a_window_anew_gives_the_same_scores(tmp_path: Path, recording: Recording) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    from trainer.model.de3 import DE3

    torch.manual_seed(3)
    safetensors.save_file(DE3(NETWORK).state_dict(), tmp_path / "model.safetensors")
    bundle = load_bundle(write_bundle(tmp_path, network=NETWORK))
    found = []
    for backend in (TorchBackend(bundle), AnewBackend(bundle)):
        stream = Stream(Recognition(bundle, backend))
        for tick in range(bundle.window.ticks):
            face = recording.faces[tick % len(recording.faces)]
            t_ns = (2 * tick + 1) * SECOND_NS // 30
            stream.add_observation(Observation(t_ns=t_ns, seq=tick, face=face))
        found.append(stream.scores(4 * SECOND_NS).scores)
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_every_engine_of_the_package_is_offered() -> None:
    assert set(names()) == ({*ENGINES} - {"auto"}) | {"torch", ANEW, NOTHING}


def test_real_crops_travel_along(bundle: Bundle, recording: Recording) -> None:
    """A face a tick, each of the clip's 25 pictures a second at most once, with a picture of 40 to 80 ms
    before; and the sound."""
    assert CROPS.stat().st_size <= 500_000
    assert recording.seconds == 2
    assert len(recording.faces) == recording.seconds * bundle.window.tick_hz
    times = np.array([each.t_ns for each in recording.observations])
    assert (np.diff(times) >= 40_000_000).all()
    assert np.abs(times - (2 * np.arange(len(times)) + 1) * SECOND_NS // 30).max() <= 20_000_000
    assert {face.gap_ns for face in recording.faces} <= {40_000_000, 80_000_000}
    for face in recording.faces:
        assert face.crop.shape == face.previous.shape == (112, 112)
        assert 0 < np.abs(face.crop.astype(int) - face.previous).mean() < 10
    sound = np.concatenate([block.samples for block in recording.blocks])
    assert sound.shape == (2 * 16_000,)
    assert 0.1 < np.abs(sound).max() <= 1


def test_what_is_kept_of_a_clip_is_read_as_it_was(recording: Recording, tmp_path: Path) -> None:
    write_crops(recording, 15, tmp_path / "crops.npz")
    again = read_crops(tmp_path / "crops.npz")
    for kept, read in zip(recording.observations, again.observations, strict=True):
        assert kept.face is not None
        assert read.face is not None
        assert (kept.t_ns, kept.face.gap_ns, kept.face.box) == (read.t_ns, read.face.gap_ns, read.face.box)
        np.testing.assert_array_equal(kept.face.previous, read.face.previous)
    for block, other in zip(recording.blocks, again.blocks, strict=True):
        np.testing.assert_array_equal(block.samples, other.samples)


def test_the_time_is_shared_among_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "absent", lambda name: name in ("tensorrt", "onnx-cuda"))
    words = [f"--engine={name}" for name in ("tensorrt", "inductor", "onnx-cuda", "onnx", ANEW, NOTHING)]
    cases = throughput._cases(throughput.parser().parse_args([*words, "--processes", "1"]))
    shares = {case.engine: case.share for case in cases}
    assert shares["tensorrt"] == shares["onnx-cuda"] == 0
    assert shares["inductor"] == pytest.approx(2.5 / (2.5 + 0.4 + 0.6 + 0.4))
    assert shares[NOTHING] == 1


def test_memory_on_the_device_is_shared_among_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "device_mib", lambda: 1500.0)
    found = load.device_figures(500.0, 1024)
    assert (found["device_mib"], found["device_opened_mib"]) == (1500, 1000)
    assert found["device_a_stream_kib"] == 1000
    assert load.device_figures(500.0, None)["device_a_stream_kib"] is None
    assert set(load.device_figures(None, None).values()) == {None}


def test_the_last_line_is_json_and_what_is_absent_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--streams", "1", "--processes", "1", "--seconds", "0.4", "--bundle", str(folder)]
    arguments += ["--engine", "onnx", "--engine", "tensorrt", "--json", str(tmp_path / "figures.json")]
    assert throughput.main([*arguments, "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report: dict[str, Any] = json.loads(lines[-1])
    assert report == json.loads((tmp_path / "figures.json").read_text())
    case = report["engines"]["onnx"]
    (trial,) = case["processes_1"]["trials"]
    assert trial["streams"] == 1
    assert trial["wanted_scores"] == 0.4 * RHYTHM.score_hz
    assert case["memory_mib"] > 0
    assert any("15 crops and 5 scores" in line for line in lines)
    assert "TensorRT" in report["engines"]["tensorrt"]["left_out"]


def test_the_rhythm_is_the_runs_own() -> None:
    assert Fraction(RHYTHM.tick_hz, RHYTHM.score_hz) == 3
