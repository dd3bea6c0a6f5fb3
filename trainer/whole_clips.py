"""`python -m trainer.whole_clips --config FILE --weights FILE --clips DIR --faces DIR`: whole made clips.

Each moving face is judged by one window that holds the whole clip with its voice, nothing lost, as a take is;
`trainer.calibrate` shows the network windows as live use draws them. Clips whose still looks neutral at rest
are reported apart: there only motion and voice tell. Knows nothing of bundles or of real recordings.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from trainer.calibrate import window_source
from trainer.clip_sets import load_shards
from trainer.configuration import add_config, read_config
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.export import load_network
from trainer.labels import HEADS, LABELS
from trainer.metrics import summarise
from trainer.model.de3 import DE3, sound_kind
from trainer.set_union import SetFolders
from trainer.stage_windows import window_logits
from trainer.window_batches import WindowSource

BATCH = 20
STILLS = ("neutral", "other")


@torch.inference_mode()
def whole_clips(network: DE3, source: WindowSource, stills: Sequence[str], seed: int) -> dict[str, Any]:
    """The report by head on all clips of a source with a label and a voice; intervals over their speakers.

    stills: the label that each clip's still shows at rest. Raises ValueError where they are not as many, and
    where no clip has both.
    """
    clips = source.clips
    if len(stills) != len(clips.labels):
        raise ValueError(f"{len(clips.labels)} clips and {len(stills)} faces cannot be of the same set.")
    told = np.flatnonzero((clips.labels != NO_LABEL) & (clips.voices != NO_TAKE)).tolist()
    if not told:
        raise ValueError("None of the clips has a label and a voice.")
    windows = [(int(clips.labels[clip]), clip, int(clips.voices[clip])) for clip in told]
    batches = source.calm_batches(np.random.default_rng(seed), windows, BATCH)
    logits = [window_logits(network, batch).float() for batch in batches]
    log_scores = torch.log_softmax(torch.cat(logits) / network.temperatures[None, :, None], -1).numpy()
    targets = [LABELS[label] for label in clips.labels[told]]
    speakers = source.voices.speakers[clips.voices[told]].astype(str).tolist()
    groups = {"still": [STILLS[stills[clip] != STILLS[0]] for clip in told]}
    return {
        name: summarise(
            log_scores[:, head].astype(np.float64), targets, speakers, LABELS, seed, groups
        ).as_json()
        for head, name in enumerate(HEADS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.whole_clips", description=__doc__.splitlines()[0]
    )
    add_config(parser, "the configuration that trained the weights")
    parser.add_argument("--weights", type=Path, required=True, help="calibrated ones")
    parser.add_argument("--clips", type=Path, required=True, help="what trainer.prepare_windows wrote")
    parser.add_argument("--faces", type=Path, required=True, help="the moving faces that it was made from")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        config = read_config(chosen.config, chosen.settings)
        network = load_network(config, chosen.weights)
        sets = [SetFolders(Path(config["cache"]), (chosen.clips,))]
        stills = [stored.meta["still_label"] for stored in load_shards(chosen.faces)]
        source = window_source(network, sets, "test", sound_kind(config))
        heads = whole_clips(network, source, stills, chosen.seed)
    except (ValueError, OSError, KeyError) as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps({"heads": heads}, indent=1))
    for name, report in heads.items():
        groups = report["groups"]["still"]
        shown = ", ".join(f"{still} stills {groups[still]['uar']:.3f}" for still in STILLS if still in groups)
        Console(stderr=True).print(f"{name}: UAR {report['uar']:.3f}, {shown}", highlight=False)


if __name__ == "__main__":
    main()
