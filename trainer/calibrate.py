"""`python -m trainer.calibrate --config FILE --weights FILE --test DIR --out FILE`: one temperature a head.

Fitted on dev windows drawn as live use would have them, shown on test clips that nothing was fitted on. A
second round that has learned from the dev speakers too is surer of them than of anybody else: it takes the
temperatures of the first (`--temperatures`).
Writes the weights with the temperatures in them; `trainer.export` carries them to the manifest.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.export import load_network
from trainer.labels import HEADS
from trainer.metrics import calibration_error, unweighted_average_recall
from trainer.model.de3 import DE3
from trainer.stage_windows import window_logits
from trainer.start import read_config
from trainer.window_batches import WindowSource

STEPS, BATCH = 40, 32
GRID = torch.logspace(-0.6, 1.0, 161)


@torch.inference_mode()
def draw_logits(network: DE3, source: WindowSource, seed: int, sense: str) -> tuple[Tensor, Tensor]:
    """(N, 3, L) logits and (N,) labels of windows with face, voice or both."""
    source.shares = {"both": (1, 0, 0), "voice": (0, 1, 0), "face": (0, 0, 1)}[sense]
    logits, labels = [], []
    for batch in source.batches(np.random.default_rng(seed), BATCH, STEPS):
        logits.append(window_logits(network, batch).float())
        labels.append(torch.from_numpy(batch.labels))
    return torch.cat(logits), torch.cat(labels)


def temperature(logits_NL: Tensor, labels_N: Tensor) -> float:
    """The temperature of a grid under which the labels are most likely."""
    losses = torch.stack([F.cross_entropy(logits_NL / t, labels_N) for t in GRID])
    return float(GRID[losses.argmin()])


def fit(network: DE3, dev: WindowSource) -> None:
    """Set the network's temperatures, each from the windows that its head is asked about."""
    fitted = {sense: draw_logits(network, dev, 11, sense) for sense in ("both", "voice", "face")}
    asked = {"video": ("both", "face"), "audio": ("both", "voice"), "fused": ("both", "voice", "face")}
    for head, name in enumerate(HEADS):
        logits = torch.cat([fitted[sense][0][:, head] for sense in asked[name]])
        labels = torch.cat([fitted[sense][1] for sense in asked[name]])
        network.temperatures[head] = temperature(logits, labels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="prepared test clips")
    parser.add_argument("--out", type=Path, required=True, help="weights with temperatures")
    parser.add_argument("--temperatures", type=Path, help="weights of the first round, to take them from")
    arguments = parser.parse_args()
    config = read_config(arguments.config)
    network = load_network(config, arguments.weights)
    if arguments.temperatures is None:
        fit(network, _source(config, network, Path(config["dev_clips"]), "dev"))
    else:
        network.temperatures.copy_(load_file(arguments.temperatures)["temperatures"])
    test = _source(config, network, arguments.test, "test")
    report: dict[str, Any] = {"temperatures": dict(zip(HEADS, network.temperatures.tolist(), strict=True))}
    for sense in ("both", "voice", "face"):
        logits, labels = draw_logits(network, test, 12, sense)
        for head, name in enumerate(HEADS):
            if (sense, name) in (("voice", "video"), ("face", "audio")):
                continue
            scores = torch.softmax(logits[:, head] / network.temperatures[head], 1).numpy()
            report[f"{sense}_{name}"] = {
                "ece": calibration_error(scores, labels.numpy()),
                "uar": unweighted_average_recall(labels.numpy(), scores.argmax(1)),
            }
    state = load_file(arguments.weights) | {"temperatures": network.temperatures.clone()}
    save_file(state, arguments.out)
    print(json.dumps(report, indent=1))


def _source(config: dict[str, Any], network: DE3, clips: Path, split: str) -> WindowSource:
    source = WindowSource(cache=Path(config["cache"]), clips=clips, splits=(split,), shares=(1, 0, 0))
    source.voice_mean, source.face_mean = network.voice_mean.numpy(), network.face_mean.numpy()
    source.renew_motion_means(network.frame_encoder.motion, 0)
    return source


if __name__ == "__main__":
    main()
