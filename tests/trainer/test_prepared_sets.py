"""What is derived from sets: of the right stills and faces, and made anew where it no longer fits."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_media import pictures
from small_windows import FRAME_ENCODER

from tests.engine.small_bundle import VOICE, voice_graph, voice_weights
from trainer import prepare_voices
from trainer.clip_sets import save_shard
from trainer.data.sound import store_voices
from trainer.data.takes import Take
from trainer.model.frame_encoder import FrameEncoder
from trainer.moving_faces import MovingClip
from trainer.prepare import main
from trainer.prepare_windows import flow_params, load_frame_encoder, write_tokens
from trainer.prepared_sets import learned_from, make_ready, training_sets
from trainer.stage_stills import StillsStage
from trainer.voice_tokens import open_tokens


def a_set(folder: Path, split: str, speaker: str) -> None:
    """One face of one tick, as `trainer.prepare` leaves it."""
    crops = np.zeros((1, 112, 112), np.uint8)
    clip = MovingClip(crops=crops, previous=crops, gap_ns=np.zeros(1, np.int64), seen=np.ones(1, bool))
    meta = {"speaker": speaker, "label": "sad", "voice": None, "group": 0}
    faces = folder / "faces" / split
    faces.mkdir(parents=True)
    save_shard(faces, 0, [clip], [meta])
    (faces / "set.json").write_text('{"clips": 1}')


def some_voices(cache: Path, numbers: Sequence[int]) -> None:
    """Takes of one length, each with a sound of its own, as `trainer.prepare` leaves them."""
    takes = [
        Take(file=Path(f"{n}.wav"), corpus="mine", speaker="mine/ann", label="sad", split="train")
        for n in numbers
    ]
    sounds = [np.random.default_rng(n).integers(-900 * (n + 1), 900 * (n + 1), 16_000) for n in numbers]
    store_voices(takes, [16_000] * len(takes), [sound.astype(np.int16) for sound in sounds], cache)


def test_a_mute_speaker_is_in_one_split_too(tmp_path: Path) -> None:
    a_set(tmp_path / "a", "train", "mine/ann")
    a_set(tmp_path / "b", "dev", "mine/ann")
    with pytest.raises(ValueError, match="speaker mine/ann is dev in one set and train in another"):
        make_ready({"stage": "voices", "sets": [str(tmp_path / name) for name in "ab"]})


def test_tokens_of_other_voices_are_not_used_and_runs_notice(tmp_path: Path) -> None:
    """The same settings, as many takes, as long ones: only what is heard is another."""
    encoder, cache = tmp_path / VOICE["encoder"], tmp_path / "set" / "voices"
    encoder.write_bytes(voice_graph(voice_weights(np.random.default_rng(7))))
    config: dict[str, Any] = {
        "stage": "voices", "sets": [str(tmp_path / "set")], "sessions": 1, "voice_encoder": str(encoder),
        "splits": ["train"], "window_model": {"voice_token": VOICE["width"]},
    }  # fmt: skip
    made = []
    for numbers in ([0, 1], [1, 2], [1, 2]):
        some_voices(cache, numbers)
        make_ready(config, 1)
        stamp = (cache / "voice_tokens.npy").stat().st_mtime_ns
        made.append((open_tokens(cache).means[0], stamp, learned_from(config)))
    (first, _, learned), (second, stamp, learned_next), (third, later, learned_again) = made
    assert not np.allclose(first[0], second[0], atol=1e-3)
    np.testing.assert_array_equal(second, third)
    assert stamp == later  # prepared anew from the same voices: nothing to do
    assert {Path(file).name for file in learned} == {"voices.npz", "made.json", "voice_tokens.json"}
    assert learned != learned_next == learned_again


def test_what_was_made_varied_is_not_overwritten(tmp_path: Path) -> None:
    cache = tmp_path / "set" / "voices"
    some_voices(cache, [0])
    prepare_voices.main(["--cache", str(cache), "--sessions", "2", "--varied", "--jobs", "1"])
    before = (cache / "mel.npy").read_bytes()
    config: dict[str, Any] = {"stage": "voices", "sets": [str(tmp_path / "set")], "window_model": {}}
    with pytest.raises(ValueError, match=r"--varied, which sets would make anew: name it as cache, without"):
        make_ready(config, 1)
    assert (cache / "mel.npy").read_bytes() == before
    (cache / "made.json").unlink()
    make_ready(config, 1)
    assert len(prepare_voices.open_mels(cache).starts) == 5


def test_tokens_of_another_encoder_or_flow_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_set(tmp_path / "set", "train", "mine/ann")
    weights, clips = tmp_path / "encoder.safetensors", tmp_path / "clips"
    save_file(FrameEncoder(**FRAME_ENCODER).state_dict(), weights)
    config: dict[str, Any] = {
        "stage": "windows", "frame_encoder_weights": str(weights), "frame_encoder": FRAME_ENCODER,
        "cache": str(tmp_path), "clips": str(clips), "splits": ["train"],
    }  # fmt: skip
    encoder = load_frame_encoder(config)
    write_tokens(encoder, flow_params(config), [], tmp_path / "set/faces/train", clips)
    assert training_sets(config)[0].clips == (clips,)
    sets = config | {"sets": [str(tmp_path / "set")]}
    make_ready(sets)
    (made,) = training_sets(sets)[0].clips
    note, tokens = made / "made.json", made / "v.npy"
    stamp = tokens.stat().st_mtime_ns
    make_ready(sets)
    assert tokens.stat().st_mtime_ns == stamp
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"flow": told["flow"] | {"patch_size": 12}}))
    make_ready(sets)
    assert tokens.stat().st_mtime_ns > stamp
    assert "made with other settings or faces; made anew" in capsys.readouterr().err
    save_file(FrameEncoder(**FRAME_ENCODER).state_dict(), weights)
    with pytest.raises(ValueError, match="clips comes from another frame encoder than the configuration"):
        training_sets(config)
    (clips / "made.json").unlink()  # of an earlier version
    training_sets(config)
    assert "does not tell its frame encoder" in capsys.readouterr().err


def test_stills_as_published_train(tmp_path: Path) -> None:
    """FERPlus beside Kaggle's pictures, through `prepare ferplus`, to a trained step."""
    head = cv2.cvtColor(pictures()[0][40:200, 80:240], cv2.COLOR_BGR2GRAY)
    pixels = " ".join(map(str, cv2.resize(head, (48, 48), interpolation=cv2.INTER_AREA).ravel()))
    votes = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    faces = ["emotion,pixels,Usage"]
    for usage in ("Training", "PublicTest", "PrivateTest"):
        for said in ("9,1,0,0,0,0,0,0,0,0", "0,8,2,0,0,0,0,0,0,0", "0,0,0,0,0,0,0,0,0,10"):
            votes.append(f"{usage},,{said}")
            faces.append(f"0,{pixels},{usage}")
    root, out = tmp_path / "fer", tmp_path / "stills"
    root.mkdir()
    (root / "fer2013new.csv").write_text("\n".join(votes) + "\n")
    (root / "fer2013.csv").write_text("\n".join(faces) + "\n")
    main(["ferplus", "--root", str(root), "--out", str(out)])
    assert not (out / "lfw.npz").exists()
    config = {"cache": str(out), "train": ["ferplus_train.npz"], "dev": "ferplus_dev.npz", "batch": 2}
    stage = StillsStage(config | {"frame_encoder": FRAME_ENCODER})
    np.testing.assert_allclose(stage.votes[:, :2], [[0.9, 0.1], [0.0, 0.8]])
    before = stage.network.expression.weight.clone()
    (batch,) = stage.batches(0)
    stage.loss(stage.outputs(batch), batch).backward()
    torch.optim.SGD(stage.network.parameters(), 0.1).step()
    assert not torch.equal(before, stage.network.expression.weight)
    assert 0 <= stage.validate(stage.network)["select"] <= 1
