"""What building for a card needs beside torch: a C++ compiler, CUDA's headers, the driver's library.

torch guesses CUDA's folder from the place of `nvcc`, which may be a script elsewhere, or be absent where
NVIDIA's wheels have the headers all the same; and a driver comes without the name that a linker asks for.
This file knows nothing of graphs. It lends torch and the linker the places for a while.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import BackendError

HEADERS = ("include/cuda.h", "include/cuda_runtime.h")
USUAL = "/usr/local/cuda"
MAPS = Path("/proc/self/maps")
"""Where Linux tells which libraries this process has loaded."""


def need_compiler() -> None:
    """Raises BackendError where there is no C++ compiler: `CXX`, or g++."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BackendError(
            f"Inductor needs a C++ compiler, and there is no {compiler} here: install one (apt install g++)."
        )


@contextmanager
def lent(extension: Any) -> Iterator[None]:
    """CUDA's folder for torch (`extension`: torch.utils.cpp_extension) and the driver's library for the
    linker. Raises BackendError where the headers are nowhere."""
    folder, before = headers(extension.CUDA_HOME), (extension.CUDA_HOME, os.environ.get("LIBRARY_PATH"))
    with tempfile.TemporaryDirectory(prefix="de3-live-") as scratch:
        if (library := loaded_driver(MAPS)) is not None:
            Path(scratch, "libcuda.so").symlink_to(library)
        extension.CUDA_HOME = str(folder)
        os.environ["LIBRARY_PATH"] = ":".join(filter(None, (scratch, before[1])))
        try:
            yield
        finally:
            extension.CUDA_HOME = before[0]
            if before[1] is None:
                del os.environ["LIBRARY_PATH"]
            else:
                os.environ["LIBRARY_PATH"] = before[1]


def headers(guess: str | None) -> Path:
    """The folder above CUDA's headers: what the environment names, torch's guess, the usual place, NVIDIA's
    wheels. Raises BackendError where none of them has the headers."""
    named = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), guess, USUAL)
    for place in (*(Path(each) for each in named if each), *_wheels()):
        if all((place / header).is_file() for header in HEADERS):
            return place
    raise BackendError(
        "Inductor needs CUDA's headers to build for a card: install a CUDA toolkit, or name its folder in "
        "CUDA_HOME."
    )


def loaded_driver(maps: Path) -> Path | None:
    """The driver's library that this process has loaded; None where there is none, or nobody tells."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    paths = (Path(line.split(maxsplit=5)[5]) for line in lines if len(line.split(maxsplit=5)) == 6)
    return next((path for path in paths if path.name.startswith("libcuda.so")), None)


def _wheels() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return [folder for place in places for folder in sorted(Path(place).iterdir()) if folder.is_dir()]
