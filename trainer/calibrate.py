"""`python -m trainer.calibrate --config FILE`: one temperature a head.

Fitted on dev windows drawn as live use would have them, shown on test clips that nothing was fitted on (on
dev, where the configuration's sets have no test split). Weights that have learned from the dev speakers too
are surer of them than of anybody else: with `--halves` they are fitted on the test speakers, and each half of
these is shown with what fits the other. Those that know the test speakers as well take the temperatures of
such weights (`--temperatures`).
Writes the weights with the temperatures in them; `trainer.export` carries them to the manifest.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from engine.evidence import evidence
from trainer.configuration import add_config, read_config, run_folder
from trainer.export import load_network
from trainer.labels import HEADS
from trainer.metrics import calibration_error, unweighted_average_recall
from trainer.model.de3 import DE3, sound_kind
from trainer.prepared_sets import dev_sets, make_ready, shown_split
from trainer.set_union import SetFolders
from trainer.stage_windows import window_logits
from trainer.start import read_weights
from trainer.window_batches import TICK_HZ, TICKS, Shares, WindowSource

STEPS, BATCH = 40, 32
SHARES: dict[str, Shares] = {"both": (1, 0, 0), "voice": (0, 1, 0), "face": (0, 0, 1)}
GRID = torch.logspace(-0.6, 1.0, 161)


@torch.inference_mode()
def draw_logits(
    network: DE3, source: WindowSource, seed: int, sense: str, sure_after_s: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """(N, 3, L) logits, as far as the windows tell, and (N,) labels of windows with face, voice or both."""
    source.shares = SHARES[sense]
    logits, labels = [], []
    for batch in source.batches(np.random.default_rng(seed), BATCH, STEPS):
        there = np.column_stack((batch.video_mask.mean(1), batch.audio_mask.mean(1)))
        sure = torch.from_numpy(evidence(there, TICKS / TICK_HZ, sure_after_s)).float()
        logits.append(window_logits(network, batch).float() * sure[..., None])
        labels.append(torch.from_numpy(batch.labels))
    return torch.cat(logits), torch.cat(labels)


def temperature(logits_NL: Tensor, labels_N: Tensor) -> float:
    """The temperature of a grid under which the labels are most likely."""
    losses = torch.stack([F.cross_entropy(logits_NL / t, labels_N) for t in GRID])
    return float(GRID[losses.argmin()])


def fitted(network: DE3, dev: WindowSource, sure_after_s: Mapping[str, float]) -> Tensor:
    """(3,) temperatures, each from windows that its head is asked about; without any, the network's own."""
    found = network.temperatures.clone()
    drawn = [sense for sense in SHARES if dev.has(SHARES[sense])]
    windows = {sense: draw_logits(network, dev, 11, sense, sure_after_s) for sense in drawn}
    asked = {"video": ("both", "face"), "audio": ("both", "voice"), "fused": ("both", "voice", "face")}
    for head, name in enumerate(HEADS):
        there = [windows[sense] for sense in asked[name] if sense in windows]
        if not there:
            continue
        logits = torch.cat([each[:, head] for each, _ in there])
        labels = torch.cat([known for _, known in there])
        found[head] = temperature(logits, labels)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.calibrate", description=__doc__.splitlines()[0])
    add_config(parser, "the configuration that trained the weights")
    parser.add_argument("--weights", type=Path, help="default: runs/NAME/best.safetensors")
    parser.add_argument("--test", type=Path, help="prepared test clips of the cache; of sets: their own")
    parser.add_argument("--out", type=Path, help="default: calibrated.safetensors beside the weights")
    parser.add_argument("--temperatures", type=Path, help="weights to take them from")
    parser.add_argument("--halves", action="store_true", help="fit on the test speakers, half by half")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.settings)
        if arguments.test is not None and "sets" in config:
            raise ValueError("--test names clips of the configuration's cache; of sets, leave it out.")
        weights = arguments.weights or run_folder(config) / "best.safetensors"
        network = load_network(config, weights)
        make_ready(config)
        sure_after_s = config.get("sure_after_s", {})
        split = "test" if arguments.test else shown_split(config)
        sets = _test_sets(config, arguments.test, split)
        test = window_source(network, sets, split, sound_kind(config))
        if arguments.halves and arguments.temperatures is None:
            halves = [
                window_source(network, sets, split, sound_kind(config), own) for own in two_halves(test)
            ]
            temperatures = fitted(network, test, sure_after_s)
            shown = [
                (own, fitted(network, other, sure_after_s))
                for own, other in zip(halves, reversed(halves), strict=True)
            ]
        else:
            if arguments.temperatures is not None:
                temperatures = read_weights(arguments.temperatures)["temperatures"]
            else:
                dev = window_source(network, dev_sets(config), "dev", sound_kind(config))
                temperatures = fitted(network, dev, sure_after_s)
            shown = [(test, temperatures)]
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    network.temperatures.copy_(temperatures)
    report = {"temperatures": dict(zip(HEADS, network.temperatures.tolist(), strict=True)), "split": split}
    report |= calibration(network, shown, sure_after_s)
    out = arguments.out or weights.with_name("calibrated.safetensors")
    save_file(read_weights(weights) | {"temperatures": network.temperatures.clone()}, out)
    print(json.dumps(report, indent=1))


def calibration(
    network: DE3, tests: Sequence[tuple[WindowSource, Tensor]], sure_after_s: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Calibration error and UAR by what was there and head, of what there are windows of.

    tests: speakers, and the (3,) temperatures with which they are shown.
    """
    report = {}
    for sense in SHARES:
        drawn = [
            (*draw_logits(network, test, 12, sense, sure_after_s), temperatures)
            for test, temperatures in tests
            if test.has(SHARES[sense])
        ]
        if not drawn:
            continue
        labels = torch.cat([known for _, known, _ in drawn]).numpy()
        for head, name in enumerate(HEADS):
            if (sense, name) in (("voice", "video"), ("face", "audio")):
                continue
            shares = [torch.softmax(logits[:, head] / by[head], 1) for logits, _, by in drawn]
            scores = torch.cat(shares).numpy()
            report[f"{sense}_{name}"] = {
                "ece": calibration_error(scores, labels),
                "uar": unweighted_average_recall(labels, scores.argmax(1)),
            }
    return report


def _test_sets(config: dict[str, Any], named: Path | None, split: str) -> list[SetFolders]:
    if named is None:
        return dev_sets(config, split)
    return [SetFolders(Path(config["cache"]), (named,))]


def two_halves(source: WindowSource) -> tuple[list[str], list[str]]:
    """Its speakers, every second one."""
    speakers = np.unique(source.voices.speakers[np.concatenate(source.takes)]).tolist()
    return speakers[::2], speakers[1::2]


def window_source(
    network: DE3, sets: list[SetFolders], split: str, sound: str, speakers: Sequence[str] | None = None
) -> WindowSource:
    """Windows of one split of these sets, with the baselines that the network starts from."""
    source = WindowSource(
        sets=sets, splits=(split,), shares=(1, 0, 0), speakers=speakers, sound=sound, as_live=True
    )
    source.voice_mean, source.face_mean = network.voice_mean.numpy(), network.face_mean.numpy()
    if not len(source.clips.labels):  # sound alone: nothing says how wide a face's token is
        source.clips = replace(
            source.clips, v=np.zeros((0, network.window_model.appearance_width), np.float16)
        )
    source.renew_motion_means(network.frame_encoder.motion, 0)
    return source


if __name__ == "__main__":
    main()
