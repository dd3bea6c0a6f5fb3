"""Shows a bundle's frame encoder labelled stills and reports on its `expression` logits.

The stills are enlarged and aligned as in training (the whole tile where no face is found), and are at rest:
flow zero. Their label is that with most of the raters' votes. Training weighs rare labels up, so that live no
label is favoured; what that costs on a set of mostly happy and neutral faces is seen by putting the labels'
shares back, by the very factor that took them out. It knows nothing of windows, time or sound.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.bundle import Bundle, load_bundle
from engine.signals.face import load_finder
from trainer.data.stills import ENLARGE, WEIGHT_POWER, aligned, load_ferplus
from trainer.metrics import summarise

BATCH = 64
HEAD = "expression"
HEAD_WITH_SHARES = "expression_with_shares"


def expression_logits(bundle: Bundle, crops: NDArray[np.uint8], threads: int = 1) -> NDArray[np.float32]:
    """(N, L) float32: logits of the frame encoder for crops (N, 112, 112) uint8 at rest."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(bundle.frame_encoder), options, providers=["CPUExecutionProvider"]
    )
    logits = []
    for at in range(0, len(crops), BATCH):
        batch = crops[at : at + BATCH, None].astype(np.float32)
        flow = np.zeros((len(batch), 2, bundle.flow.size, bundle.flow.size), np.float32)
        logits += session.run([HEAD], {"crop": batch, "flow": flow})
    return np.concatenate(logits)


def evaluate_stills(
    folder: Path,
    split: str,
    bundle_folder: Path | None,
    face_model: Path | None = None,
    offline: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """The report on one split of a folder of FERPlus sheets, with a head called `expression`.

    Where the folder has a train split, `expression_with_shares` has the shares of its labels put back.

    Raises BundleError, FinderError, FileNotFoundError or ValueError, each saying what is wrong.
    """
    bundle = load_bundle(bundle_folder)
    finder, notice = load_finder(face_model, offline, bundle)
    stills = aligned(*load_ferplus(folder, split), finder, ENLARGE)
    logits = {HEAD: expression_logits(bundle, stills.crops, threads).astype(np.float64)}
    with contextlib.suppress(ValueError):
        shares = load_ferplus(folder, "train")[1].mean(0, dtype=np.float64)
        logits[HEAD_WITH_SHARES] = logits[HEAD] - WEIGHT_POWER * np.log(np.maximum(shares, 1e-9))
    targets = [bundle.labels[place] for place in stills.votes.argmax(axis=1)]
    heads = {
        name: summarise(each, targets, [split] * len(stills), bundle.labels).as_json()
        for name, each in logits.items()
    }
    return {
        "split": split,
        "finder": notice,
        "found": float(stills.found.mean()),
        "lead": HEAD,
        "heads": heads,
    }
