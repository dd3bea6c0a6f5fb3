"""Where a compiler finds CUDA's headers and the driver's library."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import BackendError
from engine.plans import toolkit
from engine.plans.toolkit import HEADERS, headers, lent, loaded_driver


def cuda_at(folder: Path) -> Path:
    """A folder that has CUDA's headers, so to speak."""
    for header in HEADERS:
        (folder / header).parent.mkdir(parents=True, exist_ok=True)
        (folder / header).touch()
    return folder


@pytest.fixture(autouse=True)
def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CUDA anywhere."""
    for name in ("CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(toolkit, "USUAL", "/nowhere")
    monkeypatch.setattr(toolkit, "_wheels", list)


def test_a_guess_without_headers_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    with pytest.raises(BackendError, match="needs CUDA's headers to build for a card: install"):
        headers(str(tmp_path))
    monkeypatch.setattr(toolkit, "USUAL", str(cuda_at(tmp_path / "usual")))
    assert headers(str(tmp_path)) == headers(None) == tmp_path / "usual"
    monkeypatch.setenv("CUDA_HOME", str(cuda_at(tmp_path / "named")))
    assert headers(str(tmp_path)) == tmp_path / "named"


def test_wheels_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "_wheels", lambda: [tmp_path / "cudnn", cuda_at(tmp_path / "cu13")])
    assert headers(None) == tmp_path / "cu13"


def test_the_driver_that_is_loaded_is_found(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f1-7f2 r--p 00000000 08:01 1 /usr/lib/libc.so.6\n7f3-7f4 rw-p 00000000 00:00 0\n"
        "7f5-7f6 r--p 00000000 08:01 2 /opt/a driver/libcuda.so.580.1\n"
    )
    assert loaded_driver(maps) == Path("/opt/a driver/libcuda.so.580.1")
    assert loaded_driver(tmp_path / "absent") is None


def test_a_linker_finds_the_driver_for_the_time_being(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    library, program = tmp_path / "libcuda.so.1", tmp_path / "program"
    (tmp_path / "driver.cpp").write_text('extern "C" int cuInit(unsigned) { return 7; }')
    (tmp_path / "main.cpp").write_text('extern "C" int cuInit(unsigned); int main() { return cuInit(0); }')
    build = ["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "driver.cpp", "-o", library.name]
    subprocess.run(build, cwd=tmp_path, check=True)
    maps = tmp_path / "maps"
    maps.write_text(f"7f5-7f6 r--p 00000000 08:01 2 {library}\n")
    monkeypatch.setattr(toolkit, "MAPS", maps)
    extension = SimpleNamespace(CUDA_HOME=None)
    link = ["g++", "main.cpp", "-o", program.name, "-lcuda"]
    monkeypatch.setenv("CUDA_HOME", str(cuda_at(tmp_path / "cuda")))
    with lent(extension):
        assert str(tmp_path / "cuda") == extension.CUDA_HOME
        subprocess.run(link, cwd=tmp_path, check=True)
    assert extension.CUDA_HOME is None
    assert "LIBRARY_PATH" not in os.environ
    done = subprocess.run([program], env={"LD_LIBRARY_PATH": str(tmp_path)}, check=False)
    assert done.returncode == 7
