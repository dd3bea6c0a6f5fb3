"""The front page's example of scoring in one's own process, run as it stands there."""

from pathlib import Path

import pytest

from tests.peers.clip import write_clip
from tests.peers.program import REPOSITORY

PAGE = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("In your own process")[2]
EXAMPLE = PAGE.partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize(
    ("made", "top"),
    [
        pytest.param({"audio": False}, "None", id="picture alone"),
        pytest.param({"video": False}, "", id="sound alone"),
        pytest.param({"audio_start_s": 1.0}, "", id="sound starts later"),
        pytest.param({"video_start_s": 1.0}, "", id="picture starts later"),
    ],
)
def test_it_scores_to_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: dict[str, float],
    top: str,
) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=2.1, fps=15, **made)
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" s  ")[0] for line in lines] == [f"{step / 5:.1f}" for step in range(1, 11)]
    assert top in lines[-1]
