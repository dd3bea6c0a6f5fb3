"""The ablation command on tiny data: it trains, exports, plays, goes on, and writes its table."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from small_windows import windows_config, write_data

from trainer import ablate
from trainer.ablate import VARIANTS, read_plan, voices_config
from trainer.ablate import windows_config as variant_config
from trainer.model.window_model import PARTS


def toml(values: dict[str, Any]) -> str:
    """Values as TOML: JSON's scalars and lists are also TOML's."""
    plain = [f"{key} = {json.dumps(v)}" for key, v in values.items() if not isinstance(v, dict)]
    tables = [f'\n["{key}"]\n{toml(v)}' for key, v in values.items() if isinstance(v, dict)]
    return "\n".join(plain + tables) + "\n"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    windows = windows_config(write_data(tmp_path)) | {"epochs": 1, "steps": 2, "batch": 6}
    voices = windows | {"stage": "voices", "name": "tiny voices"}
    for name, config in (("windows", windows), ("voices", voices)):
        (tmp_path / f"{name}.toml").write_text(toml(config))
    file = tmp_path / "plan.toml"
    names = {"windows": str(tmp_path / "windows.toml"), "voices": str(tmp_path / "voices.toml")}
    file.write_text(toml({"name": "tiny"} | names))
    return file


def options(plan: Path, *more: str) -> list[str]:
    folders = ["--out", str(plan.parent / "runs"), "--table", str(plan.parent / "table")]
    return ["--config", str(plan), *folders, *more]


def test_variants_are_trained_once_and_stand_against_the_whole(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ablate.main(options(plan, "--seeds", "2", "--only", "no_flow", "audio_head")) == 0
    table = plan.parent / "table"
    rows = json.loads((table / "tiny.json").read_text())["rows"]
    assert {row["variant"] for row in rows} == {"whole", "no_flow", "audio_head"}
    assert all(len(row["seeds"]) == 2 and len(row["interval"]) == 2 for row in rows)
    assert not any("video" in row["figure"] for row in rows if row["variant"] == "audio_head")
    markdown = (table / "tiny.md").read_text()
    assert "without flow" in markdown
    # The sound branch of these variants is the same, so its voices are trained once a seed.
    assert len(list((plan.parent / "runs").glob("voices_*"))) == 2

    def never(*_: object) -> None:
        raise AssertionError("what is done is not trained again")

    monkeypatch.setattr(ablate, "train", never)
    assert ablate.main(options(plan, "--seeds", "2", "--only", "no_flow", "audio_head")) == 0
    assert (table / "tiny.md").read_text() == markdown


def test_every_variant_reaches_the_configuration_of_its_stages(plan: Path, tmp_path: Path) -> None:
    made = read_plan(plan, tmp_path / "runs", tmp_path)
    configs = {name: variant_config(made, variant, 1) for name, variant in VARIANTS.items()}
    assert {part for config in configs.values() for part in config["window_model"]["without"]} == {*PARTS}
    assert [name for name, config in configs.items() if not config["moving_faces"]] == ["still_faces"]
    assert configs["audio_head"]["window_model"]["trained_heads"] == ["audio"]
    assert configs["whole"]["window_model"]["without"] == []
    silent = [n for n, c in configs.items() if c["window_model"].get("still_expression") is False]
    assert silent == ["no_still_expression"]
    voices = {name: voices_config(made, variant, 1) for name, variant in VARIANTS.items()}
    other = [name for name, config in voices.items() if config != voices["whole"]]
    assert other == ["no_own_mean"]


def test_options_reach_both_stages_or_the_one_they_name(plan: Path, tmp_path: Path) -> None:
    with plan.open("a") as file:
        file.write("[both]\nepochs = 5\nthreads = 1\n[only.voices]\nepochs = 7\n")
    made = read_plan(plan, tmp_path / "runs", tmp_path)
    assert made.voices is not None
    assert (made.windows["epochs"], made.windows["threads"]) == (5, 1)
    assert (made.voices["epochs"], made.voices["threads"]) == (7, 1)


def test_a_run_is_exported_and_plays_the_tests(plan: Path) -> None:
    sound = np.rint(3000 * np.sin(np.arange(16_000) / 9)).astype(np.int16)
    with av.open(str(plan.parent / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (plan.parent / "labels.csv").write_text("file,speaker,label\na.wav,s,happy\n")
    with plan.open("a") as file:
        file.write('[tests]\n"a voice" = ["--clips", "DATA/labels.csv"]\n')
    arguments = options(plan, "--seeds", "1", "--only", "whole", "--data", str(plan.parent))
    assert ablate.main(arguments) == 0
    rows = json.loads((plan.parent / "table" / "tiny.json").read_text())["rows"]
    assert {"test a voice video", "test a voice audio", "test a voice fused"} <= {
        row["figure"] for row in rows
    }


def test_what_is_missing_is_said(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text('name = "tiny"\nwindows = "none.toml"\n')
    assert ablate.main(options(plan)) == 2
    assert "none.toml" in capsys.readouterr().err
