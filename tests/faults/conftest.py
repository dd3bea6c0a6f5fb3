"""What the fault tests share: a small bundle and a clip to run for as long as a test needs."""

from pathlib import Path

import pytest

from tests.engine.small_bundle import write_bundle
from tests.peers.clip import write_clip


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with random weights."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes with picture and sound; tests end it when they have seen enough."""
    return write_clip(tmp_path_factory.mktemp("clip") / "long.mp4", seconds=120, fps=15)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds with picture and sound."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=3)
