"""Shows a bundle's frame encoder labelled stills and reports on its `expression` logits.

The stills are enlarged and aligned as in training (the whole tile where no face is found), and are at rest:
flow zero. Their label is that with most of the raters' votes. It knows nothing of windows, time or sound.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.bundle import Bundle, load_bundle
from engine.signals.face import load_finder
from trainer.data.stills import ENLARGE, aligned, load_ferplus
from trainer.metrics import summarise

BATCH = 64
HEAD = "expression"


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
    """The report on one split of a folder of FERPlus sheets, with one head called `expression`.

    Raises BundleError, FinderError, FileNotFoundError or ValueError, each saying what is wrong.
    """
    bundle = load_bundle(bundle_folder)
    finder, notice = load_finder(face_model, offline, bundle)
    stills = aligned(*load_ferplus(folder, split), finder, ENLARGE)
    summary = summarise(
        expression_logits(bundle, stills.crops, threads).astype(np.float64),
        [bundle.labels[place] for place in stills.votes.argmax(axis=1)],
        [split] * len(stills),
        bundle.labels,
    )
    return {
        "split": split,
        "finder": notice,
        "found": float(stills.found.mean()),
        "lead": HEAD,
        "heads": {HEAD: summary.as_json()},
    }
