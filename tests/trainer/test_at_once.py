"""What is said of a voice at once: statistics of its tokens, beside the same written in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.engine.small_bundle import VOICE, voice_graph, voice_weights
from tests.trainer.small_windows import FRAME_ENCODER, WINDOW_MODEL, windows_config, write_data
from trainer.model.at_once import VoiceStatistics
from trainer.model.de3 import DE3
from trainer.model.window_model import WindowModel
from trainer.prepared_sets import make_ready
from trainer.stage_voices import VoicesStage, agreed, voice_outputs
from trainer.stage_windows import WindowsStage, window_outputs
from trainer.start import start

SAID, BANDS, STEPS = 3, 64, 100
WIDTH = SAID + 4 * BANDS
SIZES = {k: v for k, v in WINDOW_MODEL.items() if k != "sound_channels"} | {"voice_token": WIDTH}


@pytest.fixture
def statistics() -> VoiceStatistics:
    torch.manual_seed(4)
    made = VoiceStatistics(WIDTH, BANDS, 16, 7, 0.3)
    with torch.no_grad():
        made.norm.running_mean.normal_()
        made.norm.running_var.uniform_(0.5, 2)
    return made.eval()


def window(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens with log-mel that swells, bins of which some were lost, and a baseline."""
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(rows, STEPS, WIDTH, generator=generator)
    tokens[..., SAID:] += 2 * torch.sin(torch.arange(STEPS) / 7)[:, None] - 2
    mask = torch.rand(rows, 4 * STEPS, generator=generator) < 0.7
    mask[0, :80] = False
    tokens[..., SAID:] *= mask.unflatten(1, (STEPS, 4)).repeat_interleave(BANDS, 2)
    return tokens, mask, torch.randn(rows, WIDTH, generator=generator)


def said_of(made: VoiceStatistics, tokens: np.ndarray, mask: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Step by step, of one window."""
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in made.state_dict().items()}
    levels, rows = [], []
    for step, token in enumerate(tokens):
        heard = mask[4 * step : 4 * step + 4]
        if not heard.any():
            continue
        own = token - baseline
        bins = [
            own[SAID + BANDS * i : SAID + BANDS * (i + 1)] if heard[i] else np.zeros(BANDS) for i in range(4)
        ]
        rows.append(weights["project.weight"] @ np.concatenate([own[:SAID], *bins]))
        mel = token[SAID:].reshape(4, BANDS)[heard]
        levels.append(3 * mel.mean())
    share = 1 / (1 + np.exp(-(np.array(levels) - max(levels) + 4.5)))
    mean = np.average(rows, axis=0, weights=share)
    spread = np.sqrt(np.average((np.array(rows) - mean) ** 2, axis=0, weights=share) + 1e-4)
    both = np.concatenate([mean, spread])
    both = (both - weights["norm.running_mean"]) / np.sqrt(weights["norm.running_var"] + 1e-5)
    both = both * weights["norm.weight"] + weights["norm.bias"]
    hidden = weights["hidden.weight"] @ both + weights["hidden.bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    return weights["answer.weight"] @ hidden + weights["answer.bias"]


@torch.inference_mode()
def test_it_is_mean_and_deviation_of_what_is_loud(statistics: VoiceStatistics) -> None:
    tokens, mask, baseline = window()
    found = statistics(tokens, mask, baseline).numpy()
    for row, *each in zip(found, tokens.numpy(), mask.numpy(), baseline.numpy(), strict=True):
        np.testing.assert_allclose(row, said_of(statistics, *each), atol=1e-4)


@torch.inference_mode()
def test_neither_order_nor_loudness_nor_what_is_masked_counts(statistics: VoiceStatistics) -> None:
    tokens, mask, baseline = window()
    found = statistics(tokens, mask, baseline)
    order = torch.randperm(STEPS)
    shuffled = mask.unflatten(1, (STEPS, 4))[:, order].flatten(1)
    torch.testing.assert_close(statistics(tokens[:, order], shuffled, baseline), found)
    gain = torch.zeros(WIDTH)
    gain[SAID:] = 0.7
    there = mask.unflatten(1, (STEPS, 4)).repeat_interleave(BANDS, 2)
    louder = tokens.clone()
    louder[..., SAID:] += 0.7 * there
    torch.testing.assert_close(statistics(louder, mask, baseline + gain), found, atol=1e-4, rtol=1e-4)
    unheard = ~mask.unflatten(1, (STEPS, 4)).any(2)
    spoilt = torch.where(unheard[..., None], torch.nan, tokens)
    assert torch.equal(statistics(spoilt, mask, baseline), found)
    assert torch.isfinite(statistics(tokens, torch.zeros_like(mask), baseline)).all()


@torch.inference_mode()
def test_it_has_up_to_half_of_the_voices_say() -> None:
    torch.manual_seed(5)
    plain = WindowModel(**SIZES).eval()
    asked = WindowModel(**SIZES, voice_statistics=True).eval()
    asked.load_state_dict(asked.state_dict() | plain.state_dict())
    tokens, mask, baseline = window()
    face = (torch.randn(3, 60, 12), torch.randn(3, 60, 6), torch.ones(3, 60, dtype=torch.bool))
    nobody = torch.zeros(3, 60, dtype=torch.bool)
    known = torch.tensor([[0.0], [0.4], [1.0]])  # of the voice, which is what statistics are measured from
    rest = (torch.randn(3, 18), torch.rand(3), tokens, mask, baseline, known[:, 0])
    said = torch.softmax(asked.voice_statistics(tokens, mask, baseline), 1)
    alone = torch.softmax(plain(*face[:2], nobody, *rest)[0][:, 1], 1)
    mean = (said**known * alone) ** (1 / (1 + known))
    blind = asked(*face[:2], nobody, *rest)[0]
    torch.testing.assert_close(torch.softmax(blind[:, 2], 1), mean / mean.sum(1, keepdim=True))
    both, before = (torch.softmax(2 * each(*face, *rest)[0][:, 2], 1) for each in (asked, plain))
    product = before / alone * mean**1.5
    torch.testing.assert_close(both, product / product.sum(1, keepdim=True))
    assert torch.equal(asked(*face, *rest)[0][:, :2], plain(*face, *rest)[0][:, :2])


def test_it_is_of_voice_tokens() -> None:
    with pytest.raises(ValueError, match="voice_statistics are of voice tokens"):
        WindowModel(**WINDOW_MODEL, voice_statistics=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = write_data(tmp_path_factory.mktemp("data"))
    encoder = data / VOICE["encoder"]
    encoder.write_bytes(voice_graph(voice_weights(np.random.default_rng(7))))
    made = windows_config(data) | {
        "window_model": SIZES | {"voice_statistics": True},
        "voice_encoder": str(encoder),
    }
    make_ready(made, jobs=1)
    return made


@pytest.mark.parametrize("kind", [VoicesStage, WindowsStage])
def test_both_stages_teach_it_by_itself(config: dict[str, Any], kind: Any) -> None:
    """With the sound branch frozen nothing else learns in the voices stage."""
    stage = kind(config | {"frozen": ["sound_in", "sound_encoder", "pools.1", "heads.1"]})
    batch = next(iter(stage.batches(0)))
    stage.network.train()
    stage.loss(stage.outputs(batch), batch).backward()
    learned = {name for name, p in stage.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {
        "window_model.voice_statistics.project.weight",
        "window_model.voice_statistics.answer.bias",
    } <= learned
    if kind is VoicesStage:
        assert all("voice_statistics" in name for name in learned)
        assert stage.outputs(batch)[0].shape == (len(batch.labels), 1, 7)
        assert voice_outputs(stage.network, batch)[0].shape == (len(batch.labels), 2, 7)
    else:
        stage.network.eval()
        assert window_outputs(stage.network, batch)[0].shape == (len(batch.labels), 3, 7)


def test_ways_agree_as_a_product() -> None:
    ways = torch.randn(4, 2, 7)
    product = torch.softmax(ways, 2).prod(1).sqrt()
    torch.testing.assert_close(torch.softmax(agreed(ways), 1), product / product.sum(1, keepdim=True))


def test_it_comes_with_the_sound_branch_where_there_is_one(tmp_path: Path) -> None:
    def network(seed: int, statistics: bool) -> DE3:
        torch.manual_seed(seed)
        sizes = SIZES | {"voice_statistics": statistics}
        return DE3({"frame_encoder": FRAME_ENCODER, "window_model": sizes})

    own = "window_model.voice_statistics.project.weight"
    for given, taken in ((True, True), (False, True), (True, False)):
        file = tmp_path / "voices.safetensors"
        theirs, ours, before = network(1, given), network(2, taken), network(2, taken).state_dict()
        save_file(theirs.state_dict(), file)
        start(ours, {"voice_weights": str(file)})
        assert torch.equal(
            ours.state_dict()["window_model.heads.1.2.weight"],
            theirs.state_dict()["window_model.heads.1.2.weight"],
        )
        if taken:
            expected = theirs.state_dict() if given else before
            assert torch.equal(ours.state_dict()[own], expected[own])
