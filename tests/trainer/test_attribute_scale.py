"""Attributes that were rated on a scale of their own, from a table to what evaluation compares."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import load_bundle
from trainer.attribute_scale import scaled
from trainer.evaluate import open_takes, parser


def test_a_range_becomes_minus_one_to_one() -> None:
    rated = np.array([[1.0, 0.5], [5.0, np.nan], [3.0, -1.0]])
    found = scaled(["arousal", "valence"], rated, ["valence", "tension", "arousal"], {"arousal": [1, 5]})
    np.testing.assert_array_equal(found[:, 0], rated[:, 1])
    assert np.isnan(found[:, 1]).all()
    assert found[:, 2].tolist() == [-1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"'arousal' has values beyond -1 and 1: say in attribute_ranges"):
        scaled(["arousal"], rated[:, :1], ["arousal"], {})


def test_evaluation_compares_on_the_scale_of_training(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,speaker,label,arousal,tension\na.wav,ann,sad,2,0.5\nb.wav,ann,happy,,1\n")
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    bundle = replace(
        load_bundle(), attributes=("arousal", "tension"), attribute_ranges={"arousal": (1.0, 5.0)}
    )
    _, facts = open_takes(parser().parse_args(["--clips", str(table)]), bundle)
    assert [each.attributes for each in facts] == [{"arousal": -0.5, "tension": 0.5}, {"tension": 1.0}]
