"""The mean of several networks' weights, as a command."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.mean import main


def test_weights_are_averaged_by_their_shares(tmp_path: Path) -> None:
    shares = {"a": "1/2", "b": "3/16", "c": "0.3125"}
    for place, name in enumerate(shares, start=1):
        weights = {"w": torch.full((2, 3), 16.0 * place).half(), "steps": torch.tensor(place)}
        save_file(weights, tmp_path / f"{name}.safetensors")
    out = tmp_path / "new" / "mean.safetensors"
    main(
        [
            "--weights",
            *(f"{tmp_path / name}.safetensors={s}" for name, s in shares.items()),
            "--out",
            str(out),
        ]
    )
    found = load_file(out)
    torch.testing.assert_close(found["w"], torch.full((2, 3), 16 * (1 / 2 + 2 * 3 / 16 + 3 * 5 / 16)))
    assert found["steps"] == 1


def test_what_hears_may_be_that_of_another_network(tmp_path: Path) -> None:
    heard = ("voice_mean", "window_model.sound_encoder.w", "window_model.heads.1.w")
    kept = ("face_mean", "window_model.heads.0.w", "window_model.heads.2.w")
    save_file({name: torch.zeros(2) for name in (*heard, *kept)}, tmp_path / "a")
    save_file({name: torch.ones(3) for name in (*heard, *kept)}, tmp_path / "b")
    out = tmp_path / "both"
    main(["--weights", f"{tmp_path / 'a'}=1", "--voice", str(tmp_path / "b"), "--out", str(out)])
    found = load_file(out)
    assert found.keys() == {*heard, *kept}
    assert {name for name, value in found.items() if value.all()} == {*heard}


def test_what_has_no_mean_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for file, size in zip(files, (2, 3), strict=True):
        save_file({"w": torch.ones(size)}, file)
    for shares, said in (
        ([f"{files[0]}=1/2", f"{files[0]}=1/4"], "add up to 0.75, not to 1"),
        ([f"{files[0]}=1/2", f"{files[1]}=1/2"], "b.safetensors is not of the form of"),
        ([f"{tmp_path / 'gone'}=1"], "gone is missing"),
        ([str(files[0])], "is not FILE=SHARE"),
        ([f"{files[0]}=1", "--voice", str(files[1])], "b.safetensors holds no sound branch"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--weights", *shares, "--out", str(tmp_path / "mean.safetensors")])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
