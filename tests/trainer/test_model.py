"""DE-III in PyTorch: masks, absent senses, time order, batches (design section 8)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer.small_windows import FRAME_ENCODER, WINDOW_MODEL
from trainer.export import load_network
from trainer.model.de3 import DE3
from trainer.model.window_model import WindowModel

TICKS, BINS = 60, 400
MASKS = {"video_mask", "audio_mask"}


@pytest.fixture(scope="module")
def model() -> WindowModel:
    torch.manual_seed(1)
    return WindowModel(
        labels=7, appearance=12, motion=6, width=16, heads=2, kernel=5, blocks=1, sound_blocks=1,
        sound_channels=(4, 6, 8), dropout=0.1,
    ).eval()  # fmt: skip


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "v": normal(batch, TICKS, 12),
        "o": normal(batch, TICKS, 6),
        "video_mask": torch.rand(batch, TICKS, generator=generator) < 0.8,
        "face_baseline": normal(batch, 18),
        "face_weight": torch.rand(batch, generator=generator),
        "sound": normal(batch, BINS, 64) - 8,
        "audio_mask": torch.rand(batch, BINS, generator=generator) < 0.8,
        "voice_baseline": normal(batch, 64) - 8,
        "voice_weight": torch.rand(batch, generator=generator),
    }


@pytest.fixture(scope="module")
def rated(model: WindowModel) -> WindowModel:
    """The same network with two continuous attributes."""
    torch.manual_seed(3)
    made = WindowModel(
        labels=7, appearance=12, motion=6, width=16, heads=2, kernel=5, blocks=1, sound_blocks=1,
        sound_channels=(4, 6, 8), dropout=0.1, attributes=2,
    ).eval()  # fmt: skip
    made.load_state_dict(made.state_dict() | model.state_dict())
    return made


@torch.inference_mode()
def test_attributes_stand_beside_the_labels(model: WindowModel, rated: WindowModel) -> None:
    assert len(model(**inputs())) == 3
    assert not any("attribute" in name for name in model.state_dict())
    answered = rated(**inputs())
    assert len(answered) == 4
    assert torch.equal(answered[0], model(**inputs())[0])
    assert answered[3].shape == (3, 3, 2)
    assert answered[3].abs().max() <= 1
    assert answered[3].std() > 0.01


@torch.inference_mode()
def test_fused_is_the_product_of_what_each_sense_says_alone_and_of_attributes_the_mean() -> None:
    torch.manual_seed(3)
    made = WindowModel(
        labels=7, appearance=12, motion=6, width=16, heads=2, kernel=5, blocks=1, sound_blocks=1,
        sound_channels=(4, 6, 8), dropout=0.1, attributes=2, trained_heads=("video", "audio"),
    ).eval()  # fmt: skip
    both, deaf, blind = (
        made(**values)
        for values in (inputs(), without(inputs(), "audio_mask"), without(inputs(), "video_mask"))
    )
    product = torch.softmax(deaf[0][:, 0], 1) * torch.softmax(blind[0][:, 1], 1)
    agreed = torch.softmax(2 * both[0][:, 2], 1)
    torch.testing.assert_close(agreed, product / product.sum(1, keepdim=True))
    torch.testing.assert_close(both[3][:, 2], (deaf[3][:, 0] + blind[3][:, 1]) / 2)
    for single, head in ((blind, 1), (deaf, 0)):
        torch.testing.assert_close(torch.softmax(single[0][:, 2], 1), torch.softmax(single[0][:, head], 1))
        torch.testing.assert_close(single[3][:, 2], single[3][:, head])
    assert not torch.allclose(both[0][:, 0], deaf[0][:, 0])  # the published head of the face hears too


@torch.inference_mode()
def test_what_stills_taught_counts_with_the_face_measured_from_its_rest(model: WindowModel) -> None:
    asked = WindowModel(
        labels=7, appearance=12, motion=6, width=16, heads=2, kernel=5, blocks=1, sound_blocks=1,
        sound_channels=(4, 6, 8), dropout=0.1, still_expression=True,
    ).eval()  # fmt: skip
    asked.load_state_dict(asked.state_dict() | model.state_dict())
    asked.still_expression.common.copy_(torch.linspace(-1, 1, 12))
    answer, values = asked.still_expression.answer, inputs()
    for b in range(3):
        face = values["v"][b][values["video_mask"][b]].mean(0)
        rest = values["face_weight"][b] * (values["face_baseline"][b, :12] - torch.linspace(-1, 1, 12))
        said = torch.softmax(answer.weight @ (face - rest) + answer.bias, 0)
        alone = torch.softmax(model(**without(values, "audio_mask"))[0][b, 0], 0)
        product = torch.softmax(2 * model(**values)[0][b, 2], 0) / alone * (alone * said) ** 0.75
        agreed = torch.softmax(2 * asked(**values)[0][b, 2], 0)
        torch.testing.assert_close(agreed, product / product.sum())
        mean = torch.sqrt(alone * said)
        deaf = torch.softmax(asked(**without(values, "audio_mask"))[0][b, 2], 0)
        torch.testing.assert_close(deaf, mean / mean.sum())
    blind = without(values, "video_mask")
    assert torch.equal(asked(**blind)[0], model(**blind)[0])
    assert torch.equal(asked(**values)[0][:, :2], model(**values)[0][:, :2])


def test_the_whole_network_takes_the_expression_from_its_frame_encoder(tmp_path: Path) -> None:
    config = {"frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL}
    plain = DE3(config)
    plain.face_mean.copy_(torch.linspace(-1, 1, 18))
    file = tmp_path / "weights.safetensors"
    save_file(plain.state_dict(), file)
    config["window_model"] = WINDOW_MODEL | {"still_expression": True}
    still = load_network(config, file).window_model.still_expression
    assert torch.equal(still.answer.weight, plain.frame_encoder.expression.weight)
    assert torch.equal(still.common, plain.face_mean[: len(still.common)])
    assert not still.answer.weight.requires_grad


@torch.inference_mode()
def logits(model: WindowModel, values: dict[str, torch.Tensor]) -> torch.Tensor:
    result: torch.Tensor = model(**values)[0]
    return result


def without(values: dict[str, torch.Tensor], mask: str) -> dict[str, torch.Tensor]:
    return values | {mask: torch.zeros_like(values[mask])}


@pytest.mark.parametrize("rubbish", [float("nan"), 1e9])
def test_what_is_masked_has_no_influence_bit_by_bit(model: WindowModel, rubbish: float) -> None:
    clean = inputs()
    spoiled = dict(clean)
    for name, mask in (("v", "video_mask"), ("o", "video_mask"), ("sound", "audio_mask")):
        spoiled[name] = torch.where(clean[mask][..., None], clean[name], torch.tensor(rubbish))
    assert torch.equal(logits(model, clean), logits(model, spoiled))


@pytest.mark.parametrize("mask", ["video_mask", "audio_mask"])
def test_an_absent_sense_leaves_no_trace_of_its_baseline(model: WindowModel, mask: str) -> None:
    values = without(inputs(), mask)
    names = ("face_baseline", "face_weight") if mask == "video_mask" else ("voice_baseline", "voice_weight")
    other = values | {name: values[name] * 0.5 + 0.1 for name in names}
    heads = [1, 2] if mask == "video_mask" else [0, 2]
    assert torch.equal(logits(model, values)[:, heads], logits(model, other)[:, heads])


def test_an_absent_sense_is_that_branch_removed(model: WindowModel) -> None:
    """Without sound, the enhanced video is the fused O-V sequence itself, whatever the IFE's weights."""
    values = without(inputs(), "audio_mask")
    before = logits(model, values)[:, 0]
    with torch.no_grad():
        kept = [p.clone() for p in model.ife_video.parameters()]
        for p in model.ife_video.parameters():
            p.mul_(3).add_(1)
        after = logits(model, values)[:, 0]
        for p, k in zip(model.ife_video.parameters(), kept, strict=True):
            p.copy_(k)
    assert torch.equal(before, after)


def test_no_sense_at_all_is_finite(model: WindowModel) -> None:
    assert torch.isfinite(logits(model, without(without(inputs(), "video_mask"), "audio_mask"))).all()


@pytest.mark.parametrize("name", ["v", "o", "sound"])
def test_time_order_matters(model: WindowModel, name: str) -> None:
    values = inputs()
    for mask in MASKS:
        values[mask] = torch.ones_like(values[mask])
    turned = values | {name: values[name].flip(1)}
    assert (logits(model, values) - logits(model, turned)).abs().max() > 1e-3


def test_a_batch_is_its_rows(model: WindowModel) -> None:
    values = inputs()
    rows = [logits(model, {k: t[i : i + 1] for k, t in values.items()}) for i in range(3)]
    torch.testing.assert_close(logits(model, values), torch.cat(rows), atol=1e-5, rtol=1e-5)


def test_gain_of_the_microphone_does_not_count_without_a_baseline(model: WindowModel) -> None:
    values = inputs() | {"voice_weight": torch.zeros(3)}
    louder = values | {"sound": values["sound"] + 2.0}
    torch.testing.assert_close(logits(model, values), logits(model, louder), atol=1e-4, rtol=1e-4)


def test_ife_weights_are_readable_and_keep_to_what_was_heard(model: WindowModel) -> None:
    values = inputs()
    values["audio_mask"] = torch.zeros_like(values["audio_mask"])
    values["audio_mask"][:, 200:] = True
    with torch.inference_mode():
        _, attention_video, attention_audio = model(**values)
    assert attention_video.shape == (3, TICKS, BINS // 4)
    assert attention_audio.shape == (3, BINS // 4, TICKS)
    torch.testing.assert_close(attention_video.sum(2), torch.ones(3, TICKS))
    assert attention_video[:, :, : 200 // 4].max() == 0
