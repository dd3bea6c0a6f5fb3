"""Nothing is kept about the user or the machine to be sent somewhere, not by the libraries either."""

import os
import subprocess
import sys
from pathlib import Path

from tests.peers.program import REPOSITORY

CODE = """
import numpy as np
from engine import Recognizer

with Recognizer(offline=True) as recognizer:
    recognizer.add_audio(0, np.zeros(16000, np.float32))
    recognizer.add_frame(0, np.zeros((240, 320, 3), np.uint8))
    recognizer.scores(500_000_000)
"""


def test_scoring_leaves_no_file_behind(tmp_path: Path) -> None:
    """Under continuous integration ONNX Runtime is silent anyway, so the signs of that are taken away."""
    signs = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TF_BUILD", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in signs}
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        folder = tmp_path / name
        folder.mkdir()
        environment[name] = str(folder)
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, timeout=120)
    ours = tmp_path / "XDG_CACHE_HOME" / "de3-live" / "engines.json"  # how fast the engines were
    assert [
        str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file() and file != ours
    ] == []
