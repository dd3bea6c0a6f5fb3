"""Each switch of `trainer.ablate` really takes away what it names, and what is left exports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.bundle import load_bundle
from trainer.export import export
from trainer.labels import HEADS
from trainer.model.de3 import DE3
from trainer.model.window_model import PARTS, WindowModel
from trainer.still_faces import at_rest
from trainer.window_batches import Clips

SHAPE = {
    "labels": 7, "appearance": 12, "motion": 6, "width": 16, "heads": 2, "kernel": 5, "blocks": 1,
    "sound_blocks": 1, "sound_channels": (4, 6, 8), "dropout": 0.1,
}  # fmt: skip
VIDEO, AUDIO, FUSED = (HEADS.index(head) for head in ("video", "audio", "fused"))


def model(without: Sequence[str] = (), trained_heads: Sequence[str] = HEADS) -> WindowModel:
    torch.manual_seed(1)
    return WindowModel(**SHAPE, without=without, trained_heads=trained_heads).eval()


def inputs(batch: int = 2) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn)

    return {
        "v": normal(batch, 60, 12), "o": normal(batch, 60, 6),
        "video_mask": torch.rand(batch, 60, generator=drawn) < 0.8,
        "face_baseline": normal(batch, 18), "face_weight": torch.rand(batch, generator=drawn),
        "sound": normal(batch, 400, 64) - 8, "audio_mask": torch.rand(batch, 400, generator=drawn) < 0.8,
        "voice_baseline": normal(batch, 64) - 8, "voice_weight": torch.rand(batch, generator=drawn),
    }  # fmt: skip


@torch.inference_mode()
def change(made: WindowModel, names: Sequence[str], head: int) -> float:
    """How far a head's logits move when the named inputs become others."""
    values = inputs()
    other = values | {name: torch.rand_like(values[name]) - 0.5 for name in names}
    return float((made(**values)[0] - made(**other)[0])[:, head].abs().max())


@pytest.mark.parametrize(
    ("part", "names", "head"),
    [
        ("flow", ["o"], VIDEO),
        ("flow", ["o"], FUSED),
        ("ife", ["sound", "voice_baseline"], VIDEO),
        ("ife", ["v", "o", "face_baseline"], AUDIO),
        ("own_mean", ["face_baseline", "face_weight"], FUSED),
        ("own_mean", ["voice_baseline", "voice_weight"], FUSED),
    ],
)
def test_what_a_part_brings_in_has_no_influence_without_it(part: str, names: list[str], head: int) -> None:
    assert change(model(), names, head) > 1e-4
    assert change(model([part]), names, head) == 0


@torch.inference_mode()
def test_without_own_mean_a_tick_is_not_measured_against_its_window() -> None:
    values = inputs(1)
    everything = torch.ones(1, 60, dtype=torch.bool)
    later = torch.cat((values["v"][:, :30], values["v"][:, 30:] + 1), 1)
    for made, same in ((model(["own_mean"]), True), (model(), False)):
        first, second = (
            made.appearance_in(v, everything, torch.zeros(1, 12), torch.zeros(1))[:, :30]
            for v in (values["v"], later)
        )
        assert torch.equal(first, second) == same


@torch.inference_mode()
def test_without_fusion_appearance_and_motion_do_not_look_at_each_other() -> None:
    made = model(["pairwise_fusion", "ife"])
    values = inputs(1)
    values["video_mask"][:] = True
    seen: list[Tensor] = []
    made.pools[VIDEO].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for v in (values["v"], -values["v"]):
        for o in (values["o"], -values["o"]):
            made(**values | {"v": v, "o": o})
    a, b, c, d = seen[
        ::2
    ]  # each is asked with and without IFE; a sum of a part of v and a part of o: mixed differences vanish
    torch.testing.assert_close(a - b, c - d, atol=1e-5, rtol=1e-5)
    assert (a - b).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("head", HEADS)
def test_a_head_trained_alone_answers_alone(head: str) -> None:
    values = inputs()
    logits = model(trained_heads=[head])(**values)[0]
    untouched = {"video": VIDEO, "audio": AUDIO}.get(head)
    if untouched is not None:
        assert torch.equal(logits[:, FUSED], logits[:, untouched])
        return
    other = model(trained_heads=[head])
    for place in (VIDEO, AUDIO):
        torch.nn.init.normal_(other.heads[place][-1].weight)
    assert torch.equal(other(**values)[0][:, FUSED], logits[:, FUSED])


@pytest.mark.parametrize("options", [{"without": ["sound"]}, {"trained_heads": ["left"]}])
def test_what_does_not_exist_cannot_be_left_out(options: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="no part or head"):
        model(**options)


def test_what_is_left_exports_as_a_bundle(tmp_path: Path) -> None:
    config = {
        "name": "bare",
        "frame_encoder": {
            "labels": 7, "appearance": 12, "motion": 6, "flow_size": 56,
            "appearance_channels": [8, 8], "motion_channels": [4, 4, 4], "dropout": 0.0,
        },
        "window_model": SHAPE | {"without": list(PARTS)},
    }  # fmt: skip
    export(config, DE3(config).eval(), tmp_path, name="bare", version="0", card="None.\n", training={})
    assert load_bundle(tmp_path).name == "bare"


def test_a_clip_at_rest_shows_one_of_its_pictures_and_no_flow() -> None:
    rng = np.random.default_rng(0)
    clips = Clips(
        v=rng.normal(size=(30, 4)).astype(np.float16),
        flow=rng.normal(size=(30, 2, 56, 56)).astype(np.float16),
        seen=np.arange(30) % 3 > 0,
        starts=np.array([0, 12]),
        ticks=np.array([12, 18]),
        labels=np.array([0, 1]),
        voices=np.array([0, 1]),
        groups=np.array([-1, -1]),
    )
    still = at_rest(clips, 1)
    assert not still.flow.any()
    assert still.flow.shape == clips.flow.shape
    for start, end in ((0, 12), (12, 30)):
        assert (still.v[start:end] == still.v[start]).all()
        assert (clips.v[start:end][clips.seen[start:end]] == still.v[start]).all(1).any()
    np.testing.assert_array_equal(still.mean_v().astype(np.float16), still.v[[0, 12]])
