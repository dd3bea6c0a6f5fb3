"""A STAND-IN for the `tensorrt` package, with the same surface, that executes through ONNX Runtime on the
CPU.

It proves the engine's own logic (what is built, checked, kept, copied where), not TensorRT: no kernel is
built, bf16 is fp32 on rounded numbers, and times mean nothing. `test_tensorrt_surface.py` holds every public
name here against NVIDIA's real bindings, and the engine can use nothing that is not here.
"""

import enum
import hashlib
import json
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pycuda_standin
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__version__ = "11.4.0.106"
_MAGIC = b"standin\n"
_SCRATCH = 4096
_faults: dict[str, Any] = {}
"""What goes wrong: build, context: an error's text; noise: added to every fp32 output that is not a token."""
_builds: list[str] = []
"""What was built, by the number of its nodes; for tests of caches."""


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    BF16 = 7
    INT64 = 8


_KINDS = {
    TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    TensorProto.UINT8: (DataType.UINT8, np.uint8),
    TensorProto.INT32: (DataType.INT32, np.int32),
    TensorProto.INT64: (DataType.INT64, np.int64),
    TensorProto.BOOL: (DataType.BOOL, np.bool_),
}


def nptype(trt_type: DataType) -> Any:
    return dict(_KINDS.values())[trt_type]


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class IHostMemory(bytes):
    __slots__ = ()


class ITensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self.name = value.name
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        self.dtype, self._numpy = _KINDS[kind.elem_type]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            self._network._model = onnx.load_from_string(model)
            onnx.checker.check_model(self._network._model, full_check=True)
        except Exception as error:
            self._errors.append(ParserError(str(error).splitlines()[0]))
        return not self._errors


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._known = set(data.decode(errors="replace").split())

    def serialize(self) -> IHostMemory:
        return IHostMemory(" ".join(sorted(self._known)).encode())


class IBuilderConfig:
    def __init__(self) -> None:
        self.progress_monitor: IProgressMonitor | None = None
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and any(not word.startswith(__version__) for word in cache._known):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        pycuda_standin.card.need_context()
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        assert network._flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert BuilderFlag.TF32 not in config._flags, "fp32 means fp32"
        model = network._model.SerializeToString()
        mark = f"{__version__}/{hashlib.sha256(model).hexdigest()[:16]}"
        watch = config.progress_monitor
        if watch is not None:
            watch.phase_start("Building engine", None, 2)
            watch.phase_start("Tactics", "Building engine", 1)
            watch.step_complete("Tactics", 0)
            watch.phase_finish("Tactics")
            watch.step_complete("Building engine", 0)
            watch.phase_finish("Building engine")
        if "build" in _faults:
            self._logger.log(ILogger.Severity.ERROR, _faults["build"])
            return None
        known = config._cache is not None and mark in config._cache._known
        _builds.append("from the timing cache" if known else "measured")
        if config._cache is not None:
            config._cache._known.add(mark)
        header = json.dumps({"version": __version__, "shapes": config._profiles[0]._shapes}).encode()
        return IHostMemory(_MAGIC + len(header).to_bytes(8, "little") + header + model)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        pycuda_standin.card.need_context()
        if not serialized_engine.startswith(_MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "Serialization assertion plan->header.magicTag failed.")
            return None
        start = len(_MAGIC) + 8
        end = start + int.from_bytes(serialized_engine[len(_MAGIC) : start], "little")
        header = json.loads(serialized_engine[start:end])
        if header["version"] != __version__:
            self._logger.log(
                ILogger.Severity.ERROR, "The engine plan file is not compatible with this version"
            )
            return None
        return ICudaEngine(serialized_engine[end:], header["shapes"], self._logger)


class ICudaEngine:
    _sessions: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: bytes, shapes: dict[str, list[list[int]]], logger: ILogger) -> None:
        graph = onnx.load_from_string(model).graph
        self._shapes, self._logger = shapes, logger
        self._inputs = {value.name: ITensor(value) for value in graph.input}
        self._outputs = {value.name: ITensor(value) for value in graph.output}
        self._tensors = self._inputs | self._outputs
        digest = hashlib.sha256(model).hexdigest()
        if digest not in self._sessions:
            self._sessions[digest] = _session(model)
        self._session = self._sessions[digest]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def device_memory_size_v2(self) -> int:
        return _SCRATCH

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> "IExecutionContext | None":
        if "context" in _faults:
            self._logger.log(ILogger.Severity.ERROR, _faults["context"])
            return None
        return IExecutionContext(self, strategy)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine, self._lent = engine, strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        self._places: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= _SCRATCH
        pycuda_standin.card.view(memory, size)
        self._lent = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._shapes.get(name, [list(self._engine._inputs[name].shape)] * 3)
        fits = len(shape) == len(least) and all(
            a <= n <= b for a, n, b in zip(least, shape, most, strict=True)
        )
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._places[name] = memory
        return name in self._engine._tensors and memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        shapes = {n: self._shapes.get(n, tensor.shape) for n, tensor in self._engine._inputs.items()}
        assert self._lent
        assert set(self._places) == set(self._engine._tensors)
        assert not any(-1 in shape for shape in shapes.values())
        pycuda_standin.card.streams[stream_handle]._ask(lambda: self._run(shapes))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]]) -> None:
        feed = {}
        for name, shape in shapes.items():
            kind = np.dtype(self._engine._inputs[name]._numpy)
            size = int(np.prod(shape)) * kind.itemsize
            feed[name] = pycuda_standin.card.view(self._places[name], size).view(kind).reshape(shape)
        names = list(self._engine._outputs)
        for name, value in zip(names, self._engine._session.run(names, feed), strict=True):
            found: NDArray[Any] = np.ascontiguousarray(value)
            if name == "logits" and "noise" in _faults:
                found = found + np.float32(_faults["noise"]) * np.arange(found.shape[-1], dtype=np.float32)
            pycuda_standin.card.view(self._places[name], found.nbytes)[:] = found.reshape(-1).view(np.uint8)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    data = _without_bf16(onnx.load_from_string(model)).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _without_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime has no bf16 on a CPU: numbers are rounded to it where they are cast, and stay fp32."""
    graph, nodes = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            bits = np.frombuffer(tensor.raw_data, "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32).reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.BFLOAT16:
            made = node.output[0]
            node.output[0] = f"{made}_rounded"
            nodes.append(helper.make_node("Cast", [node.output[0]], [made], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model
