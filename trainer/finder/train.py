"""`python -m trainer.finder.train finder --seen FILE --out DIR`: teach the finder or the aligner.

Goes on from the last checkpoint in the folder. One thread; pictures are drawn as they are needed. Weights
leave it as `DIR/NAME.safetensors` (the mean over the last steps, which is what ships).
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer import checkpoint
from trainer.finder.network import Aligner, Finder
from trainer.finder.scenery import Source
from trainer.finder.scenes import crop, scene
from trainer.finder.targets import targets
from trainer.finder.teacher import Seen
from trainer.mixed_precision import LEFT_OUT, mixed_precision, suits

SIZES = ((128, 160), (160, 128), (128, 160), (224, 192))
"""Heights and widths of scenes, by turns."""
PIXELS = 24 * 128 * 160
"""Of a batch of scenes, about."""
CROPS = 96
STEPS = {"finder": 18000, "aligner": 20000}
PEAK_RATE = {"finder": 2.5e-3, "aligner": 2e-3}
WEIGHT_DECAY = 1e-3
WARM_UP = 200
MEAN_OVER = 400
KEEP_EVERY = 250
GAMMA = 2.0

Step = Callable[[np.random.Generator, nn.Module], dict[str, Tensor]]


def finder_step(source: Source) -> Step:
    """One batch of scenes; losses by name."""

    def step(rng: np.random.Generator, network: nn.Module) -> dict[str, Tensor]:
        height, width = SIZES[int(rng.integers(len(SIZES)))]
        drawn = [scene(rng, source, height, width) for _ in range(PIXELS // (height * width))]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn]))[:, None].float()
        truth_BK, value_BKC = zip(*(targets(faces, height, width) for _, faces in drawn), strict=True)
        with mixed_precision("cpu", wanted=True):
            levels = network(pictures.contiguous(memory_format=torch.channels_last))
        answer_BKC = torch.cat([level.float().flatten(2).transpose(1, 2) for level in levels], 1)
        return finder_losses(
            answer_BKC, torch.from_numpy(np.stack(truth_BK)), torch.from_numpy(np.stack(value_BKC))
        )

    return step


def finder_losses(answer_BKC: Tensor, truth_BK: Tensor, value_BKC: Tensor) -> dict[str, Tensor]:
    """Focal loss over cells that are known; distances in shares of the face at cells that are one."""
    known, positive = truth_BK >= 0, truth_BK > 0
    logit = answer_BKC[..., 0][known]
    wanted = truth_BK[known]
    share = torch.sigmoid(logit)
    miss = torch.where(wanted > 0, 1 - share, share)
    weight = miss.detach() ** GAMMA
    entropy = F.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
    count = positive.sum().clamp(min=1)
    answer, value = answer_BKC[positive][:, 1:], value_BKC[positive]
    size = value[:, 14:]
    middle = F.smooth_l1_loss(answer[:, :2] / size, value[:, :2] / size, beta=0.03)
    extent = F.smooth_l1_loss(answer[:, 2:4], value[:, 2:4], beta=0.05)
    points = F.smooth_l1_loss(answer[:, 4:] / size, value[:, 4:14] / size, beta=0.02)
    return {"face": 2 * (weight * entropy).sum() / count, "box": 2 * (middle + extent), "points": 8 * points}


def aligner_step(source: Source) -> Step:
    """One batch of crops; losses by name."""

    def step(rng: np.random.Generator, network: nn.Module) -> dict[str, Tensor]:
        crops, places, faces = zip(*(crop(rng, source) for _ in range(CROPS)), strict=True)
        pictures = torch.from_numpy(np.stack(crops))[:, None].float()
        with mixed_precision("cpu", wanted=True):
            answer_BC = network(pictures.contiguous(memory_format=torch.channels_last)).float()
        wanted = torch.tensor(faces)
        face = F.binary_cross_entropy_with_logits(answer_BC[:, 0], wanted)
        shown = wanted > 0
        answer, truth = answer_BC[shown, 1:], torch.from_numpy(np.stack(places))[shown]
        box = F.smooth_l1_loss(answer[:, :4], truth[:, :4], beta=1.0)
        points = F.smooth_l1_loss(answer[:, 4:], truth[:, 4:], beta=0.5)
        return {"face": face, "box": 0.1 * box, "points": 0.5 * points}

    return step


def train(name: str, seen: Path, out: Path, steps: int, seed: int, console: Console) -> Path:
    """Train from the last checkpoint in `out`, if there is one. Returns the file of the mean weights."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network: nn.Module = (Finder() if name == "finder" else Aligner()).to(memory_format=torch.channels_last)
    source = Source.of(Seen.read(seen), dev=False)
    step_of = finder_step(source) if name == "finder" else aligner_step(source)
    optimiser = torch.optim.AdamW(network.parameters(), PEAK_RATE[name], weight_decay=WEIGHT_DECAY)
    mean = {key: value.clone().float() for key, value in network.state_dict().items()}
    begin = _resume(out / f"{name}.last.safetensors", network, optimiser, mean)
    losses: dict[str, float] = {}
    for step in range(begin, steps):
        fallen = 0.505 + 0.495 * math.cos(math.pi * step / steps)
        rate = PEAK_RATE[name] * min(1, (step + 1) / WARM_UP) * fallen
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng((seed, step))
        terms = step_of(rng, network.train())
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        keep = max(1 / (step + 1), 1 / MEAN_OVER)
        for key, value in network.state_dict().items():
            mean[key] += keep * (value.float() - mean[key])
        for key, value in terms.items():
            now = float(value.detach())
            losses[key] = 0.98 * losses.get(key, now) + 0.02 * now
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == steps:
            _keep(out, name, step + 1, network, optimiser, mean)
            shown = "  ".join(f"{key} {value:.4f}" for key, value in losses.items())
            console.print(
                f"{name} {step + 1}/{steps}  {shown}  {time.process_time() / 60:.1f} min of one core"
            )
    return out / f"{name}.safetensors"


def _keep(
    out: Path,
    name: str,
    step: int,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    mean: dict[str, Tensor],
) -> None:
    checkpoint.write(out / f"{name}.last.safetensors", network, mean, optimiser, {"step": str(step)})
    part = out / f"{name}.part"
    save_file({key: value.contiguous() for key, value in mean.items()}, part)
    part.replace(out / f"{name}.safetensors")


def _resume(file: Path, network: nn.Module, optimiser: torch.optim.Optimizer, mean: dict[str, Tensor]) -> int:
    if not file.is_file():
        return 0
    averaged, notes = checkpoint.read(file, network, optimiser)
    mean.update(averaged)
    return int(notes["step"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.finder.train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", choices=("finder", "aligner"))
    parser.add_argument("--seen", type=Path, required=True, help="what trainer.finder.teacher wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    console, name = Console(), arguments.name
    steps = arguments.steps or STEPS[name]
    if not suits("cpu"):
        console.print(LEFT_OUT)
    console.print(train(name, arguments.seen, arguments.out, steps, arguments.seed, console))


if __name__ == "__main__":
    main()
