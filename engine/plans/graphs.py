"""The graphs that a plan is built from: the bundle's, with what a GPU needs put before and after them.

`encoder_graph`: crops as bytes in, one token a frame (appearance and motion side by side) out.
`score_graph`: the rings of all tracks and where to read them in, logits out; it gathers a window's tokens,
hides what is masked, and folds new ticks into the face's slow mean, so that tokens never leave the device.
`voice_graph`: the voice encoder as it is, where the bundle has one.
Bundles are read, nothing is run; an ONNX model leaves. The names of inputs and outputs are those of the
constants here, and the back end's.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.precision import cast, opset
from engine.plans.store import ENCODER, SCORE, VOICE

IR_VERSION, LEAST_OPSET = 8, 13


def part_graphs(bundle: Bundle, precision: str, slots: int) -> dict[str, onnx.ModelProto]:
    """The graphs of a plan by their names (`engine.plans.store.part_names`), for rings of `slots` tracks.

    Raises BackendError where a graph is too old or cannot be cast, ValueError for an unknown precision.
    """
    graphs = {ENCODER: encoder_graph(bundle, precision), SCORE: score_graph(bundle, precision, slots)}
    if bundle.voice is not None:
        graphs[VOICE] = voice_graph(bundle.voice.encoder, precision)
    return graphs


def encoder_graph(bundle: Bundle, precision: str) -> onnx.ModelProto:
    """crop (N, C, S, S) uint8 and flow (N, 2, F, F) float32 pixels a second -> token (N, Dv + Do) float32."""
    model = cast(_only(_read(bundle.frame_encoder), ["v", "o"]), precision)
    graph = model.graph
    crop = next(value for value in graph.input if value.name == "crop")
    _rename(graph, "crop", "crop_numbers")
    crop.type.tensor_type.elem_type = TensorProto.UINT8
    graph.node.insert(0, helper.make_node("Cast", ["crop"], ["crop_numbers"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Concat", ["v", "o"], ["token"], axis=1))
    del graph.output[:]
    graph.output.append(_value("token", TensorProto.FLOAT, "N", _width(bundle)))
    for value in graph.input:
        _with_batch(value, "N")
    return _checked(model, bundle.frame_encoder)


def score_graph(bundle: Bundle, precision: str, slots: int) -> onnx.ModelProto:
    """The window model on rings (B windows of T ticks; D = Dv + Do).

    ring (slots * ring_ticks, D) float32: all tokens; rows (B, T) int32: where a window's are in it.
    state (slots, D) float32: the faces' slow means; slot (B,) int32: which of them.
    keep (B,), fold (B, T) float32: new mean = keep * old mean + sum of fold * token (`engine.baseline`).
    video_mask, face_weight, mel or voice_tokens, audio_mask, voice_baseline, voice_weight: as the window
        model takes them.
    Gives logits, attributes where the bundle has any, and mean (B, D) float32, the new slow means.
    """
    wanted = ["logits", "attributes"] if bundle.attributes else ["logits"]
    model = _only(_read(bundle.window_model), wanted)
    count_in_floats(model)
    model = cast(model, precision)
    graph, window, width = model.graph, bundle.window, _width(bundle)
    kept = [v for v in graph.input if v.name not in ("v", "o", "face_baseline")]
    del graph.input[:]
    graph.input.extend(
        [
            _value("ring", TensorProto.FLOAT, slots * window.ring_ticks, width),
            _value("state", TensorProto.FLOAT, slots, width),
            _value("rows", TensorProto.INT32, "B", window.ticks),
            _value("slot", TensorProto.INT32, "B"),
            _value("keep", TensorProto.FLOAT, "B"),
            _value("fold", TensorProto.FLOAT, "B", window.ticks),
            *(_with_batch(v, "B") for v in kept),
        ]
    )
    for name, values in {
        "plan_one": np.array([1]),
        "plan_two": np.array([2]),
        "plan_widths": np.array([bundle.tokens.appearance, bundle.tokens.motion]),
        "plan_zero": np.zeros(1, np.float32),
    }.items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    first = _gather_and_fold()
    for at, node in enumerate(first):
        graph.node.insert(at, node)
    graph.output.append(_value("mean", TensorProto.FLOAT, "B", width))
    for output in graph.output:
        _with_batch(output, "B")
    return _checked(model, bundle.window_model)


def voice_graph(encoder: Path, precision: str) -> onnx.ModelProto:
    """mel (N, PIECE, F) float32 -> tokens (N, TOKENS, W) float32, see `engine.signals.voice.Network`.

    bf16 is too coarse for log-mel, whose small steps tell (the bundled model's probabilities move by 0.012),
    so there it stays fp32: it is a fourteenth of the products.
    """
    model = cast(_only(_read(encoder), ["tokens"]), "fp32" if precision == "bf16" else precision)
    for value in (*model.graph.input, *model.graph.output):
        _with_batch(value, "N")
    return _checked(model, encoder)


def _gather_and_fold() -> list[onnx.NodeProto]:
    """From rings to the v, o and face_baseline of the bundle's own graph."""
    node = helper.make_node
    return [
        node("Gather", ["ring", "rows"], ["plan_tokens"], axis=0),
        node("Unsqueeze", ["video_mask", "plan_two"], ["plan_shown_mask"]),
        node("Where", ["plan_shown_mask", "plan_tokens", "plan_zero"], ["plan_shown"]),
        node("Split", ["plan_shown", "plan_widths"], ["v", "o"], axis=2),
        node("Unsqueeze", ["fold", "plan_one"], ["plan_fold"]),
        node("MatMul", ["plan_fold", "plan_shown"], ["plan_added"]),
        node("Squeeze", ["plan_added", "plan_one"], ["plan_new"]),
        node("Gather", ["state", "slot"], ["plan_old"], axis=0),
        node("Unsqueeze", ["keep", "plan_one"], ["plan_keep"]),
        node("Mul", ["plan_old", "plan_keep"], ["plan_left"]),
        node("Add", ["plan_left", "plan_new"], ["mean"]),
        node("Identity", ["mean"], ["face_baseline"]),
    ]


def count_in_floats(model: onnx.ModelProto) -> None:
    """Let masks be counted in fp32 instead of int64, in place.

    Exporters count what a mask shows in int64 and clip the count; TensorRT clips and reduces floats on every
    version, integers on few. A window's counts are far below 2^24, so nothing changes.
    """
    graph = model.graph
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.INT64:
            counting = _counting(node, takers)
            if counting is not None:
                node.attribute[0].i = TensorProto.FLOAT
                for clip in (each for each in counting if each.op_type == "Clip"):
                    _float_bounds(clip, graph)
    del graph.value_info[:]


def _counting(node: onnx.NodeProto, takers: dict[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto] | None:
    """The nodes that reduce and clip this one's result until it is cast again; None where others use it."""
    found: list[onnx.NodeProto] = []
    for taker in takers.get(node.output[0], []):
        if taker.op_type == "Cast":
            continue
        if taker.op_type not in ("ReduceSum", "ReduceMax", "Clip") or taker.input[0] != node.output[0]:
            return None
        rest = _counting(taker, takers)
        if rest is None:
            return None
        found += [taker, *rest]
    return found


def _float_bounds(clip: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for i, name in enumerate(clip.input):
        if i and name in constants and constants[name].data_type == TensorProto.INT64:
            clip.input[i] = f"{name}_float"
            if clip.input[i] not in constants:
                values = numpy_helper.to_array(constants[name]).astype(np.float32)
                graph.initializer.append(numpy_helper.from_array(values, clip.input[i]))


def _read(file: Path) -> onnx.ModelProto:
    model = onnx.load(str(file))
    if (found := opset(model)) < LEAST_OPSET:
        raise BackendError(f"{file} has ONNX opset {found}; a plan needs {LEAST_OPSET} or newer.")
    model.ir_version = max(model.ir_version, IR_VERSION)
    _widen(model.graph)
    return model


def _widen(graph: onnx.GraphProto) -> None:
    """Weights that are kept at half precision become float32, as they are computed with."""
    stored = {weight.name: weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT16}
    for node in [each for each in graph.node if each.op_type == "Cast" and each.input[0] in stored]:
        weight = stored[node.input[0]]
        values = numpy_helper.to_array(weight).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)


def _only(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """The model without what these outputs do not need."""
    graph, needed = model.graph, set(outputs)
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            nodes.append(node)
    kept_outputs = [output for output in graph.output if output.name in outputs]
    kept_tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, kept in (("node", nodes[::-1]), ("output", kept_outputs), ("initializer", kept_tensors)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(kept)
    return model


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _with_batch(value: onnx.ValueInfoProto, batch: str) -> onnx.ValueInfoProto:
    """In place: exporters name the free size as they like, and all inputs of a plan share one."""
    value.type.tensor_type.shape.dim[0].dim_param = batch
    return value


def _width(bundle: Bundle) -> int:
    return bundle.tokens.appearance + bundle.tokens.motion


def _checked(model: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    model.producer_name = "de3-live plan"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(f"{file} cannot be made into a plan: {reason}") from error
    return model
