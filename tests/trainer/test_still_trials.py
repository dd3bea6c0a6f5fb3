"""Still faces shown to the frame encoder of a bundle."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from trainer.evaluate import main

SHARED = Path(__file__).parents[2] / ".." / "shared"


def test_stills_are_read_by_the_frame_encoder(tmp_path: Path) -> None:
    folder = SHARED / "data" / "ferplus"
    model = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
    if not (folder.is_dir() and model.is_file()):
        pytest.skip("the stills are not beside the repository")
    with (folder / "index.csv").open(newline="") as source:
        rows = [row for row in csv.DictReader(source) if row["sheet"] == "dev_00.jpg"][:60]
    happy = max(rows[40:], key=lambda row: float(row["happy"]))
    rows = [*rows[:40], happy | {"split": "train"}]
    with (tmp_path / "index.csv").open("w", newline="") as target:
        table = csv.DictWriter(target, rows[0])
        table.writeheader()
        table.writerows(rows)
    (tmp_path / "dev_00.jpg").symlink_to((folder / "dev_00.jpg").resolve())
    file = tmp_path / "report.json"
    options = ["--stills", str(tmp_path), "--split", "dev", "--json", str(file)]
    assert main([*options, "--face-model", str(model), "--jobs", "1"]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert 30 <= report["heads"]["expression"]["clips"] <= 40
    assert report["found"] > 0.8
    # The train split here is one happy face: with its shares put back hardly any other answer is left.
    with_shares = np.array(report["heads"]["expression_with_shares"]["confusion"])
    happy = report["heads"]["expression_with_shares"]["labels"].index("happy")
    without = np.array(report["heads"]["expression"]["confusion"])
    assert with_shares[:, happy].sum() > without[:, happy].sum()
