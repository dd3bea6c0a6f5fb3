"""Operations are counted right, the peers are the networks they are named after, and their reports hold."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers, roofline
from benchmarks.operations import Work, by_operator, of_flow, of_graph, of_mel, stream_second
from benchmarks.sheet import Sheet
from engine.bundle import DEFAULT_BUNDLE, MANIFEST, load_bundle
from engine.signals.flow import FlowParams
from engine.signals.sound import MelParams
from tests.engine.small_bundle import write_bundle

onnx = pytest.importorskip("onnx")

GRAPH = """<ir_version: 9, opset_import: ["": 20]>
small (float[B,3,10,12] picture) => (float[B,5] out)
<float[4,3,3,3] kernel, float[4,5] weight>
{
  found = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (picture, kernel)
  kept = Relu (found)
  mean = GlobalAveragePool (kept)
  flat = Flatten (mean)
  out = Gemm (flat, weight)
}"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(GRAPH)
    for name, shape in (("kernel", (4, 3, 3, 3)), ("weight", (4, 5))):
        value = onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for each in [each for each in model.graph.initializer if each.name == name]:
            model.graph.initializer.remove(each)
        model.graph.initializer.append(value)
    onnx.save(model, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def test_a_graph_is_counted_as_by_hand(graph: Path) -> None:
    for batch in (1, 7):
        found = of_graph(graph, batch)
        # 5 x 6 places, 4 channels, 27 products each, then 4 x 5; an addition and a multiplication for each
        assert found.products == batch * 2 * (5 * 6 * 4 * 27 + 4 * 5)
        numbers = batch * (3 * 10 * 12 + 5) + 4 * 27 + 4 * 5
        assert found.least_bytes == 4 * numbers
        assert found.bytes > found.least_bytes
        assert found.others == batch * (2 * 5 * 6 * 4)
    parts = by_operator(graph, 7)
    assert sum(part.products for part in parts.values()) == of_graph(graph, 7).products
    assert parts["Conv"].products == 7 * 2 * 5 * 6 * 4 * 27


@pytest.mark.skipif(not (DEFAULT_BUNDLE / MANIFEST).is_file(), reason="engine/bundles/live is not there")
def test_torchs_own_counter_agrees_on_the_bundle() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.cost import window_inputs
    from benchmarks.eager import load_network

    bundle = load_bundle()
    network = load_network(bundle)
    crop, flow = torch.zeros(2, 1, 112, 112), torch.zeros(2, 2, 56, 56)
    windows = [torch.from_numpy(np.repeat(each, 2, axis=0)) for each in window_inputs(bundle).values()]
    for graph, file, given in (
        (network.frame_encoder, bundle.frame_encoder, (crop, flow)),
        (network.window_model, bundle.window_model, windows),
    ):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            graph(*given)
        # the bundle's encoder gives an expression too, as the network does
        assert of_graph(file, 2).products == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert of_graph(bundle.window_model, 4).products == 2 * of_graph(bundle.window_model, 2).products


def test_flow_and_mel_take_what_their_settings_say() -> None:
    assert of_mel(MelParams(), 100).operations == 100 * of_mel(MelParams(), 1).operations
    assert of_mel(MelParams(n_fft=1024), 1).operations > of_mel(MelParams(), 1).operations
    without = of_flow(112, FlowParams(variational_iterations=0)).operations
    five = of_flow(112, FlowParams()).operations - without
    ten = of_flow(112, FlowParams(variational_iterations=10)).operations - without
    assert ten == pytest.approx(2 * five)


def test_a_streams_second_is_its_parts(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    one, many = (stream_second(bundle, batch, 5) for batch in (1, 8))
    assert one["frame encoder"].products == 15 * of_graph(bundle.frame_encoder).products
    assert many["window model"].products == pytest.approx(one["window model"].products)
    assert many["window model"].least_bytes < one["window model"].least_bytes


def test_the_limit_is_the_longer_of_arithmetic_and_memory() -> None:
    ceilings = {"numpy": 1e9, "onnx": 2e9, "copy": 1e9}
    work = Work(products=4e6, least_bytes=1e6)
    assert roofline.limit_ms(work, "onnx", ceilings, host=True) == pytest.approx(2.0)
    assert roofline.limit_ms(work, "strange", ceilings, host=True) == pytest.approx(4.0)
    assert roofline.limit_ms(work.times(0.25), "onnx", {**ceilings, "copy": 1e8}, host=True) == pytest.approx(
        2.5
    )
    assert roofline.limit_ms(work, "inductor", ceilings, host=False) is None


def test_on_a_gpu_the_limit_follows_the_precision() -> None:
    card = {"gpu": {"fp32": 1e9, "fp16": 8e9, "copy": 1e9}}
    work = Work(products=8e6, others=1e6, least_bytes=4e6)
    assert roofline.limit_ms(work, "inductor", card, False) == pytest.approx(9.0)
    assert roofline.limit_ms(work, "inductor", card, False, "fp16") == pytest.approx(2.0)
    assert roofline.limit_ms(work.times(0.1), "inductor", card, False, "bf16") is None
    moved = Work(least_bytes=4e6)
    assert roofline.limit_ms(moved, "inductor", card, False, "fp16") == pytest.approx(2.0)


def test_every_stage_has_its_share_of_the_limit() -> None:
    ceilings = {"numpy": 1e9, "onnx": 1e9, "copy": 1e12}
    works = {
        name: asdict(Work(products=each * 1e6))
        for name, each in (
            ("flow", 1),
            ("frame encoder", 3),
            ("log-mel", 1),
            ("window model", 2),
            ("voice encoder", 1),
        )
    }
    spent = {"faces": 8.0, "sound": 2.0, "voices": 4.0, "windows": 4.0, "rest": 2.0, "all": 20.0}
    found = roofline.stages(spent, works, "onnx", ceilings, {"host": True, "precision": "fp32"})
    assert {stage: each["reached"] for stage, each in found.items()} == {
        "faces": 0.5, "sound": 0.5, "voices": 0.25, "windows": 0.5, "rest": 0.0, "all": 0.4,
    }  # fmt: skip
    beyond = {stage: each["share_beyond"] for stage, each in found.items()}
    assert beyond == {
        "faces": 0.2, "sound": 0.05, "voices": 0.15, "windows": 0.1, "rest": 0.1, "all": 0.6,
    }  # fmt: skip
    card = {**ceilings, "gpu": {"fp32": 2e9, "copy": 1e12}}
    for engine, limit in (("inductor", 0.5), ("torch", 1.0)):  # eager torch leaves the voices to the host
        found = roofline.stages(spent, works, engine, card, {"host": False, "precision": "fp32"})
        assert found["voices"]["limit_ms"] == limit


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        # timm 1.0 (`num_classes=0`), and transformers 5 less what only training uses: the mask's embedding,
        # and the weight norm's gains
        (lambda n: n.EfficientNet(), 4_007_548),
        (lambda n: n.EfficientNet(1.1, 1.2), 7_700_994),
        (lambda n: n.Wav2Vec2(), 94_371_712 - 768 - 128),
        (lambda n: n.Wav2Vec2(large=True), 164_284_032 - 1024 - 128),
    ],
)
def test_the_peers_are_the_published_networks(make: Any, parameters: int) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks import networks

    with torch.device("meta"):
        network = make(networks)
    assert sum(each.numel() for each in network.parameters()) == parameters


def test_the_peers_run() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.networks import EfficientNet, Wav2Vec2
    from benchmarks.runners import operations

    with torch.inference_mode():
        assert EfficientNet()(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)
        assert Wav2Vec2(large=True, layers=1)(torch.zeros(1, 6400)).shape == (1, 19, 1024)
    # 0.39 and 1.0 thousand million multiplications, as published; an addition with each
    with torch.device("meta"):
        assert operations(EfficientNet(), (1, 3, 224, 224)) == pytest.approx(2 * 0.39e9, rel=0.03)
        assert operations(EfficientNet(1.1, 1.2), (1, 3, 260, 260)) == pytest.approx(2 * 1.0e9, rel=0.1)


def test_a_score_costs_all_pictures_anew_or_the_new_ones() -> None:
    def run(ms: float) -> dict[str, float]:
        return {"p50": ms}

    networks = {
        "EfficientNet-B2": {
            "ms": {"onnx": {"picture": run(10), "window": run(500)}, "torch": {"left_out": "x"}}
        },
        "wav2vec 2.0 large-robust, 12 layers": {"ms": {"onnx": {"window": run(800)}}},
    }
    alone, paper = peers.scores(networks, {"onnx": {"score_ms": 20.0}}, between=3)
    assert (alone["anew_ms"], alone["kept_ms"]) == (500, 30)
    assert (paper["anew_ms"], paper["kept_ms"]) == (1300, 830)
    assert (paper["anew_ratio"], paper["kept_ratio"]) == (65, 41.5)
    assert {row["engine"] for row in (alone, paper)} == {"onnx"}


def test_both_scripts_end_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    shared = ["--quick", "--bundle", str(write_bundle(tmp_path / "bundle")), "--offline"]
    assert roofline.main([*shared, "--engine", "onnx", "--engine", "tensorrt"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["engines"]["onnx"]["second_ms"]) == {"1", "2"}
    spent = report["engines"]["onnx"]["second_ms"]["2"]
    assert set(spent) == {"faces", "sound", "voices", "windows", "rest", "all"}
    assert set(report["engines"]["onnx"]["stages"]["2"]) == set(spent)
    assert report["engines"]["onnx"]["stages"]["2"]["faces"]["reached"] > 0
    assert report["ceilings"]["onnx"] > 0
    assert "left_out" in report["engines"]["tensorrt"]
    assert peers.main([*shared, "--network", "B0", "--engine", "torch"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    (network,) = report["networks"].values()
    assert network["ms"]["torch"]["picture"]["n"] == 1
    assert report["scores"][0]["anew_ms"] > 0
    assert report["ours"]["onnx"]["score_ms"] > 0


def test_a_table_is_text_and_markdown() -> None:
    table = Sheet("Title", ("name", "figure"), notes=["A note."])
    table.add("a|b", 1.5)
    table.add("c")
    lines = table.text().splitlines()
    assert [line.split() for line in lines[3:]] == [["a|b", "1.5"], ["c"], ["A", "note."]]
    assert "| a\\|b | 1.5 |" in table.markdown().splitlines()
