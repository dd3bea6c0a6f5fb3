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


def test_what_has_no_mean_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for file, size in zip(files, (2, 3), strict=True):
        save_file({"w": torch.ones(size)}, file)
    for shares, said in (
        ([f"{files[0]}=1/2", f"{files[0]}=1/4"], "add up to 0.75, not to 1"),
        ([f"{files[0]}=1/2", f"{files[1]}=1/2"], "b.safetensors is not of the form of"),
        ([f"{tmp_path / 'gone'}=1"], "gone is missing"),
        ([str(files[0])], "is not FILE=SHARE"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--weights", *shares, "--out", str(tmp_path / "mean.safetensors")])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
