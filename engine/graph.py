"""What an ONNX file takes and gives, read from its header without any inference library.

An ONNX file is one protocol-buffer message; only the names, types and shapes of the graph's inputs and
outputs are looked at, everything else is skipped by its length. Nothing is executed, and nothing is known
here of what the graphs are for. Field numbers: `onnx.proto` of ONNX (ModelProto.graph = 7,
GraphProto.input = 11 and output = 12, ValueInfoProto.name = 1 and type = 2).
"""

from collections.abc import Iterator
from dataclasses import dataclass

DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output. `shape` has None where the size is free."""

    dtype: str
    shape: tuple[int | None, ...]


def read_ports(data: bytes) -> tuple[dict[str, Port], dict[str, Port]]:
    """The inputs and the outputs of an ONNX file by name; raises ValueError where `data` is none."""
    graph = _only(memoryview(data), 7)
    if not isinstance(graph, memoryview):
        raise ValueError("no graph in it")
    inputs: dict[str, Port] = {}
    outputs: dict[str, Port] = {}
    for number, value in _fields(graph):
        if number in (11, 12) and isinstance(value, memoryview):
            name = _only(value, 1)
            ports = inputs if number == 11 else outputs
            ports[_text(name)] = _port(value)
    return inputs, outputs


def _port(value_info: memoryview) -> Port:
    kind = _only(value_info, 2)
    tensor = _only(kind, 1) if isinstance(kind, memoryview) else None
    if not isinstance(tensor, memoryview):
        return Port("unknown", ())
    dtype, shape = _only(tensor, 1), _only(tensor, 2)
    sizes: list[int | None] = []
    for number, dimension in _fields(shape) if isinstance(shape, memoryview) else ():
        if number == 1 and isinstance(dimension, memoryview):
            size = _only(dimension, 1)
            sizes.append(size if isinstance(size, int) else None)
    return Port(DTYPES.get(dtype, "unknown") if isinstance(dtype, int) else "unknown", tuple(sizes))


def _text(value: "int | memoryview | None") -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _only(message: memoryview, wanted: int) -> "int | memoryview | None":
    found = None
    for number, value in _fields(message):
        if number == wanted:
            found = value
    return found


def _fields(message: memoryview) -> "Iterator[tuple[int, int | memoryview]]":
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError("not an ONNX file")
        if at + length > len(message):
            raise ValueError("cut short")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("not an ONNX file")
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
