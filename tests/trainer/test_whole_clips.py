"""Made faces judged a whole clip at a time, and those of neutral stills apart."""

import dataclasses
from copy import copy

import numpy as np
import pytest
import torch
from small_windows import windows_config, write_data

from trainer.calibrate import window_source
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.export import load_network
from trainer.labels import HEADS, LABELS
from trainer.model.de3 import DE3
from trainer.set_union import SetFolders
from trainer.train import train
from trainer.whole_clips import whole_clips
from trainer.window_batches import WindowSource


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[DE3, WindowSource]:
    folder = tmp_path_factory.mktemp("whole")
    config = windows_config(write_data(folder))
    train(config, folder / "run")
    network = load_network(config, folder / "run" / "best.safetensors")
    return network, window_source(network, [SetFolders(folder / "voices", (folder / "dev",))], "dev", "mel")


def test_every_clip_counts_once_with_its_speaker_and_its_still(learned: tuple[DE3, WindowSource]) -> None:
    network, source = learned
    stills = ["neutral", *[LABELS[label] for label in source.clips.labels][1:-1], "neutral"]
    torch.set_num_threads(1)
    heads = whole_clips(network, source, stills, seed=0)
    assert list(heads) == list(HEADS)
    for report in heads.values():
        assert report["clips"] == len(stills) == sum(map(sum, report["confusion"]))
        assert list(report["speakers"]) == ["ravdess/13"]
        groups = report["groups"]["still"]
        assert groups["neutral"]["clips"] == stills.count("neutral")
        assert groups["neutral"]["clips"] + groups["other"]["clips"] == len(stills)
    assert heads["fused"]["uar"] > 0.8, "the label shows in every clip"
    assert whole_clips(network, source, stills, seed=0) == heads


def test_clips_without_a_label_or_a_voice_do_not_count(learned: tuple[DE3, WindowSource]) -> None:
    network, source = learned
    labels, voices = source.clips.labels.copy(), source.clips.voices.copy()
    labels[1], voices[2] = NO_LABEL, NO_TAKE
    changed, fewer = copy(source), dataclasses.replace(source.clips, labels=labels, voices=voices)
    changed.clips = fewer
    stills = ["neutral", "sad", "sad", *["neutral"] * (len(labels) - 3)]
    for report in whole_clips(network, changed, stills, seed=0).values():
        assert report["clips"] == len(labels) - 2
        assert list(report["groups"]["still"]) == ["neutral"]
    changed.clips = dataclasses.replace(fewer, labels=np.full(len(labels), NO_LABEL))
    with pytest.raises(ValueError, match="None of the clips has a label and a voice"):
        whole_clips(network, changed, stills, seed=0)


def test_faces_of_another_set_are_refused(learned: tuple[DE3, WindowSource]) -> None:
    network, source = learned
    with pytest.raises(ValueError, match=r"14 clips and 3 faces"):
        whole_clips(network, source, ["neutral"] * 3, seed=0)
