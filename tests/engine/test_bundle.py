"""A bundle loads whole or not at all, and says in one sentence why not."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bundle import FRAME_ENCODER, LABELS, write_bundle, write_manifest

from engine.bundle import Bundle, load_bundle
from engine.errors import BundleError
from engine.graph import DTYPES, read_ports


@pytest.fixture
def folder(small: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(small.path, tmp_path / "bundle"))


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_a_whole_bundle_loads_with_everything_that_training_and_live_share(small: Bundle) -> None:
    raw = (small.path / "manifest.json").read_bytes()
    assert small.digest == hashlib.sha256(raw).hexdigest()[:12]
    assert small.labels == tuple(LABELS)
    assert (small.window.ticks, small.window.bins, small.window.window_ns) == (60, 400, 4_000_000_000)
    assert small.window.ring_ticks >= 128
    assert (small.crop.size, len(small.crop.template), small.flow.size, small.mel.bands) == (112, 5, 56, 64)
    assert small.baseline.face_mean.shape == (small.tokens.appearance + small.tokens.motion,)
    assert small.baseline.voice_mean.shape == (64,)
    assert small.temperatures["video"] == 1.5


def test_attributes_are_named_in_the_manifest_and_sized_by_the_graph(rated: Bundle, tmp_path: Path) -> None:
    assert rated.attributes == ("arousal", "valence")
    folder = Path(shutil.copytree(rated.path, tmp_path / "bundle"))
    write_manifest(folder, manifest_of(folder) | {"attributes": ["arousal"]})
    with pytest.raises(BundleError, match=r"output attributes is .*2.*not .*1"):
        load_bundle(folder)


def test_attributes_that_the_graph_does_not_give_are_refused(folder: Path) -> None:
    write_manifest(folder, manifest_of(folder) | {"attributes": ["valence"]})
    with pytest.raises(BundleError, match=r"window_model.onnx does not give \['attributes'\]"):
        load_bundle(folder)


def test_the_bundle_that_ships_is_the_default(any_bundle: Bundle) -> None:
    assert load_bundle(any_bundle.path).digest == any_bundle.digest


@pytest.mark.parametrize("name", ["manifest.json", "frame_encoder.onnx", "window_model.onnx", "parity.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}.*No such file") as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["frame_encoder.onnx", "window_model.onnx", "parity.npz"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_is_found(folder: Path, name: str, place: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not hold a map"),
        ("{}", "schema None"),
        ('{"schema": 2}', "schema 2; this version reads schema 1"),
        ('{"schema": 1}', "lacks the key"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of `a.b` in a manifest."""

    def change(manifest: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for step in path:
            manifest = manifest[step]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("lead", "smell"), "led by 'smell'"),
        (put("heads", ["video"]), "heads"),
        (put("labels", ["a", "a"]), "named twice"),
        (put("labels", "happy"), "not a list of words"),
        (put("temperatures", {"video": 1}), "lacks the key 'audio'"),
        (put("temperatures.fused", 0), "not all positive"),
        (put("smoothing_s", -0.1), "smoothing_s"),
        (put("smoothing_s", float("nan")), "smoothing_s"),
        (put("sure_after_s", {"video": 1, "audio": 60}), "one of sure_after_s"),
        (put("sure_after_s", {"video": 1}), "for each of"),
        (put("sure_after_s", 1.6), "does not fit"),
        (put("leaning", {"share": 0.5, "rest": "bored", "prior_s": 20, "tau_s": 60}), "'bored', none of the"),
        (put("leaning", {"share": 2, "rest": "neutral", "prior_s": 20, "tau_s": 60}), "leaning has share 2"),
        (put("leaning", {"share": 0.5}), "missing 3 required"),
        (put("attributes", ["valence", "valence"]), "one named twice"),
        (put("attributes", [f"a{i}" for i in range(65)]), "more than 64 attributes"),
        (put("temperatures.fused", float("nan")), "not all positive"),
        (put("sound", "cepstrum"), "sound is 'cepstrum', none of"),
        (put("mel.bands", 0), "bands 0"),
        (put("mel.colour", 3), "colour"),
        (put("flow.size", 0), "flow.size is 0"),
        (put("window.mel_hz", 50), "mel_hz 50"),
        (put("window.seconds", -1), "a window of"),
        (put("crop.template", [[1, 2]]), "1 points"),
        (put("crop", None), "does not fit"),
        (put("baseline.face_mean", [0, 1]), r"face_mean has shape \(2,\)"),
        (put("baseline.voice_mean", [float("inf")] * 64), "not finite"),
        (put("baseline.tau_s", 0), "not all > 0"),
        (put("tokens.motion", 7), "baseline.face_mean"),
        (put("graphs.frame_encoder", "../other.onnx"), "not among its files"),
        (put("files", {"../x": ""}), "not among its files"),
        (put("files", ["parity.npz"]), "not among its files"),
    ],
)
def test_a_manifest_without_sense_is_refused(folder: Path, change: Any, message: str) -> None:
    manifest = manifest_of(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert str(folder / "manifest.json") in str(caught.value)


def test_a_bundle_names_nothing_outside_its_folder(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["files"]["../secret"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a plain name"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": {"seconds": 2, "tick_hz": 15, "mel_hz": 100}}, r"window_model.onnx: input v is .*60, 8"),
        ({"labels": LABELS[:6]}, "output expression is"),
        ({"sound": "waveform"}, r"window_model.onnx takes .*'mel'.*, not .*'waveform'"),
        ({"graphs": {"frame_encoder": "window_model.onnx", "window_model": "window_model.onnx"}}, "takes"),
        (
            {"graphs": {"frame_encoder": "parity.npz", "window_model": "window_model.onnx"}},
            "not an ONNX graph",
        ),
    ],
)
def test_a_graph_that_does_not_fit_its_manifest_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(write_bundle(tmp_path, **changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("float[N,8] v", "float[N,8] w", r"does not give \['v'\]"),
        ("float[N,1,112,112] crop", "float[1,1,112,112] crop", "input crop"),
        ("float[N,1,112,112] crop", "uint8[N,1,112,112] crop", "input crop"),
    ],
)
def test_a_graph_with_other_ports_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    text = FRAME_ENCODER.replace(old, new).replace("v = Tanh", f"{'w' if ' w' in new else 'v'} = Tanh")
    (folder / "frame_encoder.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(BundleError, match=message):
        load_bundle(write_manifest(folder, manifest_of(folder)))


def test_graph_headers_are_read_as_the_onnx_package_reads_them(any_bundle: Bundle) -> None:
    for file in (any_bundle.frame_encoder, any_bundle.window_model):
        graph = onnx.load(file).graph
        for ports, infos in zip(read_ports(file.read_bytes()), (graph.input, graph.output), strict=True):
            assert list(ports) == [info.name for info in infos]
            for info in infos:
                tensor = info.type.tensor_type
                sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
                assert ports[info.name].shape == sizes
                assert ports[info.name].dtype == DTYPES[tensor.elem_type]


@given(st.integers(0, 10**6), st.binary(max_size=8), st.booleans())
def test_no_bytes_make_the_header_reader_do_anything_but_refuse(
    small: Bundle, place: int, noise: bytes, cut: bool
) -> None:
    data = small.frame_encoder.read_bytes()
    at = place % len(data)
    try:
        read_ports(data[:at] + noise + (b"" if cut else data[at + len(noise) :]))
    except ValueError:
        return


def test_parity_samples_need_no_unpickling(any_bundle: Bundle) -> None:
    with np.load(any_bundle.parity, allow_pickle=False) as samples:
        assert {"crop", "flow", "answer_logits"} <= set(samples)


def test_the_bundle_that_ships_tells_nothing_of_the_machine_that_made_it() -> None:
    for file in load_bundle().path.iterdir():
        content = file.read_bytes()
        assert b"Traceback" not in content
        assert b'.py", line' not in content, file.name
    manifest = (load_bundle().path / "manifest.json").read_text()
    assert not re.findall(r'"(?:[/~]|[A-Za-z]:)[^"]*"', manifest), "a place of one machine alone"
