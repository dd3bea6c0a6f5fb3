"""The stand-ins against the real packages: whatever the engine calls exists there, under the same names.

TensorRT's libraries are not on any public index, its Python bindings are: 1.3 MB a version. They import with
libraries that are empty, and then every class, member and signature can be looked at; nothing can be built.

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106 -d WHEELS
    pip download --no-deps tensorrt-cu13-bindings==10.16.1.11 -d WHEELS
    DE3_TENSORRT_WHEELS=WHEELS pytest tests/engine/test_tensorrt_surface.py

cuda-bindings is looked at where it is installed. pycuda is source only: it needs a CUDA toolkit and some
minutes to build. Where there is no driver, a library without contents stands in for it (DRIVER/libcuda.so).
In the unpacked source, and then with DE3_PYCUDA naming the folder:

    python configure.py --cuda-root=TOOLKIT --cudadrv-lib-dir=DRIVER --no-cuda-enable-curand
    pip install --no-deps --no-build-isolation --target BUILT .
    DE3_PYCUDA=BUILT pytest tests/engine/test_tensorrt_surface.py
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VERSIONS = ("11.4.0.106", "10.16.1.11")
WHEELS, PYCUDA = "DE3_TENSORRT_WHEELS", "DE3_PYCUDA"

DERIVED = """
import tensorrt_bindings as trt
from engine.backends.tensorrt_parts import _logger
from engine.plans.tensorrt_build import _monitor
logger, told = _logger(trt), []
logger.log(trt.ILogger.Severity.WARNING, "nothing")
logger.log(trt.ILogger.Severity.ERROR, "out of  memory")
monitor = _monitor(trt, "part", lambda *all: told.append(all))
monitor.phase_start("Building", None, 2)
assert monitor.step_complete("Building", 0)
monitor.phase_finish("Building")
assert isinstance(logger, trt.ILogger) and isinstance(monitor, trt.IProgressMonitor)
assert 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) > 0
import numpy as np
kinds = (trt.DataType.FLOAT, trt.DataType.UINT8, trt.DataType.INT32, trt.DataType.BOOL)
assert [np.dtype(trt.nptype(kind)).name for kind in kinds] == ["float32", "uint8", "int32", "bool"]
print(logger.last, told)
"""


def run(code: list[str], paths: list[Path], libraries: Path) -> str:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, HERE, ROOT])),
        "LD_LIBRARY_PATH": str(libraries),
    }
    done = subprocess.run([sys.executable, *code], env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def stub(library: Path, functions: list[str] | None = None) -> None:
    """A shared library by that name whose functions do nothing."""
    lines = "".join(f"void* {name}(void){{return 0;}}\n" for name in functions or [])
    library.with_suffix(".c").write_text(lines)
    flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}"]
    subprocess.run(["gcc", *flags, "-o", library, library.with_suffix(".c")], check=True)


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the real bindings and of empty libraries for them."""
    folder = os.environ.get(WHEELS)
    tag = f"tensorrt_cu13_bindings-{request.param}-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"
    wheels = sorted(Path(folder).glob(tag)) if folder else []
    if not wheels:
        pytest.skip(f"{WHEELS} names no folder with {tag}; this file's head says how to get it")
    if absent := [tool for tool in ("gcc", "nm", "readelf") if shutil.which(tool) is None]:
        pytest.skip(f"{absent[0]} is not installed, to make empty libraries with")
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(site)
    module = site / "tensorrt_bindings" / "tensorrt.so"
    needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    table = subprocess.run(
        ["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True
    )
    libraries = tmp_path_factory.mktemp("stubs")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        (file,) = {w.strip("[]") for w in needed.split() if w.startswith(f"[lib{name}.so")} or {
            f"lib{name}.so"
        }
        functions = [line.split()[-1] for line in table.stdout.splitlines() if "@" not in line]
        own = [f for f in functions if not f.startswith(("Py", "_Py", "_ITM", "__", "dl", "pthread_"))]
        stub(libraries / file, own if name == "nvinfer" else None)
    return site, libraries


def test_tensorrt_has_all_that_is_used(bindings: tuple[Path, Path]) -> None:
    site, libraries = bindings
    found = run([str(HERE / "surface.py"), "tensorrt_standin", "tensorrt_bindings"], [site], libraries)
    assert json.loads(found) == []


def test_classes_derived_from_tensorrts_work(bindings: tuple[Path, Path]) -> None:
    site, libraries = bindings
    told = run(["-c", DERIVED], [site], libraries)
    assert told.startswith("out of memory [('part: Building', 0, 2), ('part: Building', 1, 2)")


def test_cuda_bindings_has_all_that_is_used(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    command = [str(HERE / "surface.py"), "cuda_bindings_standin", "cuda.bindings.driver"]
    assert json.loads(run(command, [], tmp_path)) == []


def test_pycuda_has_all_that_is_used(tmp_path: Path) -> None:
    folder = os.environ.get(PYCUDA)
    if not folder:
        pytest.skip(f"{PYCUDA} names no folder with a build of pycuda; this file's head says how to get one")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed, to make an empty library with")
    stub(tmp_path / "libcuda.so.1")
    stub(tmp_path / "libcurand.so.10")
    found = run([str(HERE / "surface.py"), "pycuda_standin", "pycuda.driver"], [Path(folder)], tmp_path)
    assert json.loads(found) == []


def test_the_comparison_finds_what_is_missing() -> None:
    code = """
import types, surface, json
real = types.ModuleType("real")
exec("class A:\\n def go(self, far): pass\\nclass E:\\n __members__ = {'X': 1}", real.__dict__)
ours = types.ModuleType("ours")
import enum
class A:
    def go(self, near): pass
    def stop(self): pass
class E(enum.IntEnum):
    X = 1
    Y = 2
class B: pass
for each in (A, E, B):
    each.__module__ = "ours"
    setattr(ours, each.__name__, each)
surface._attributes = lambda ours: set()
print(json.dumps(surface.gaps(ours, real)))
"""
    assert json.loads(run(["-c", code], [], HERE)) == [
        "A.go takes [['far']], not ['near']",
        "A.stop is not there",
        "E.Y is not there",
        "B is not there",
    ]
