"""What several networks agree on becomes the target of another, and it comes to say what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.trainer.small_windows import FRAME_ENCODER, WINDOW_MODEL, windows_config, write_data
from trainer.labels import LABELS
from trainer.model.de3 import DE3
from trainer.stage_voices import VoicesStage, voice_outputs
from trainer.teachers import Teachers
from trainer.train import train


def _network(seed: int) -> DE3:
    torch.manual_seed(seed)
    return DE3({"frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL})


def test_the_target_is_the_geometric_mean_in_its_share_and_unknown_stays_unknown() -> None:
    one, two = _network(1), _network(2)
    answers = {id(one): torch.randn(3, 7), id(two): torch.randn(3, 7)}
    shares = torch.eye(7)[[2, 5, 0]]
    shares[2] = 0
    taught = Teachers([one, two], 0.6).taught(shares, lambda network: answers[id(network)])
    probabilities = [torch.softmax(each, 1).numpy() for each in answers.values()]
    agreed = np.sqrt(probabilities[0] * probabilities[1])
    agreed /= agreed.sum(1, keepdims=True)
    np.testing.assert_allclose(taught[:2], 0.4 * shares[:2].numpy() + 0.6 * agreed[:2], atol=1e-6)
    assert not taught[2].any()
    assert torch.equal(Teachers([], 0.6).taught(shares, lambda network: answers[id(network)]), shares)


def test_a_learner_comes_to_say_what_its_teacher_says(tmp_path: Path) -> None:
    """The teacher is wrong about every label by one, and the learner believes it alone."""
    data = write_data(tmp_path)
    config = windows_config(data) | {"stage": "voices", "epochs": 8}
    voices = dict(np.load(data / "voices" / "voices.npz"))
    np.savez(data / "voices" / "voices.npz", **voices | {"labels": (voices["labels"] + 1) % len(LABELS)})
    train(config, tmp_path / "teacher")
    np.savez(data / "voices" / "voices.npz", **voices)
    taught = {"teachers": [str(tmp_path / "teacher" / "best.safetensors")], "taught_share": 1.0}
    train(config | taught, tmp_path / "learner")
    last = json.loads((tmp_path / "learner" / "history.jsonl").read_text().splitlines()[-1])
    assert last["ravdess"] < 0.1  # the best epoch by the true labels is the one that learned least
    assert train(config, tmp_path / "untaught")["ravdess"] > 0.9


def test_a_teacher_of_another_size_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    narrow = DE3({"frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL | {"width": 8}})
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    config = windows_config(data) | {"stage": "voices", "teachers": [str(tmp_path / "narrow.safetensors")]}
    with pytest.raises(ValueError, match=r"narrow\.safetensors does not fit"):
        VoicesStage(config)


def test_teachers_do_not_learn(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    save_file(_network(3).state_dict(), tmp_path / "teacher.safetensors")
    stage = VoicesStage(
        windows_config(data) | {"stage": "voices", "teachers": [str(tmp_path / "teacher.safetensors")]}
    )
    batch = next(iter(stage.batches(0)))
    stage.loss(voice_outputs(stage.network, batch), batch).backward()
    assert any(p.grad is not None for p in stage.network.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in stage.teachers.networks[0].parameters())
