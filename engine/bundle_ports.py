"""What a bundle's graphs must take and give, and whether they do.

It reads no manifest and no file. Data leaves as the ports that each graph should have.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import BundleError
from engine.graph import Port, read_ports
from engine.signals.face_networks import CROP, LEVELS, ROW
from engine.signals.voice import PIECE, TOKENS

if TYPE_CHECKING:
    from engine.bundle import Bundle, FaceGraphs

Ports = dict[str, Port]
Graph = tuple[Path, Ports, Ports]
"""A graph's file, its inputs and its outputs; the first size is the batch, which must be free."""


def expected_ports(bundle: "Bundle") -> list[Graph]:
    """Of every graph that the bundle has."""
    size, window, labels = bundle.crop.size, bundle.window, len(bundle.labels)
    v, o = bundle.tokens.appearance, bundle.tokens.motion
    encoder = (
        {
            "crop": _floats(bundle.crop.channels, size, size),
            "flow": _floats(2, bundle.flow.size, bundle.flow.size),
        },
        {"v": _floats(v), "o": _floats(o), "expression": _floats(labels)},
    )
    window_model = (
        {
            "v": _floats(window.ticks, v),
            "o": _floats(window.ticks, o),
            "video_mask": Port("bool", (None, window.ticks)),
            "face_baseline": _floats(v + o),
            "face_weight": _floats(),
            bundle.sound: _floats(*bundle.sound_shape),
            "audio_mask": Port("bool", (None, window.bins)),
            "voice_baseline": _floats(bundle.voice_width),
            "voice_weight": _floats(),
        },
        {"logits": _floats(len(bundle.heads), labels)},
    )
    if bundle.attributes:
        window_model[1]["attributes"] = _floats(len(bundle.heads), len(bundle.attributes))
    graphs: list[Graph] = [(bundle.frame_encoder, *encoder), (bundle.window_model, *window_model)]
    if bundle.faces is not None:
        graphs += _face_ports(bundle.faces)
    if bundle.voice is not None:
        bands = bundle.mel.bands
        given = {"tokens": _floats(TOKENS, bundle.voice.said)}
        graphs.append((bundle.voice.encoder, {"mel": _floats(PIECE, bands)}, given))
    return graphs


def _floats(*sizes: int) -> Port:
    return Port("float32", (None, *sizes))


def _face_ports(faces: "FaceGraphs") -> list[Graph]:
    def ports(*names: str, dtype: str, shape: tuple[int | None, ...]) -> Ports:
        return {name: Port(dtype, shape) for name in names}

    cells = ports(*LEVELS, dtype="float32", shape=(None, ROW, None, None))
    crop = ports("crop", dtype="uint8", shape=(None, 1, CROP, CROP))
    return [
        (faces.finder, ports("picture", dtype="uint8", shape=(None, 1, None, None)), cells),
        (faces.aligner, crop, ports("face", dtype="float32", shape=(None, ROW))),
    ]


def check_graph(file: Path, data: bytes, inputs: Ports, outputs: Ports) -> None:
    """Raises BundleError where a graph takes or gives something else."""
    try:
        found_inputs, found_outputs = read_ports(data)
    except ValueError as error:
        raise BundleError(f"{file} is not an ONNX graph: {error}.") from error
    if set(found_inputs) != set(inputs):
        raise BundleError(f"{file} takes {sorted(found_inputs)}, not {sorted(inputs)}.")
    if missing := sorted(set(outputs) - set(found_outputs)):
        raise BundleError(f"{file} does not give {missing}, only {sorted(found_outputs)}.")
    for name, port in inputs.items():
        if not _fits(found_inputs[name], port) or found_inputs[name].shape[0] is not None:
            raise BundleError(f"{file}: input {name} is {found_inputs[name]}, not {port}.")
    for name, port in outputs.items():
        if not _fits(found_outputs[name], port):
            raise BundleError(f"{file}: output {name} is {found_outputs[name]}, not {port}.")


def _fits(found: Port, wanted: Port) -> bool:
    """Free sizes fit anything: exporters often leave those of outputs open."""
    return (
        found.dtype == wanted.dtype
        and len(found.shape) == len(wanted.shape)
        and all(f is None or w is None or f == w for f, w in zip(found.shape, wanted.shape, strict=True))
    )
