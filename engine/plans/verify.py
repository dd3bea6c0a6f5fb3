"""The long check of a back end: all that the design promises of one, and what it costs.

It asks a back end for what a live run asks for, beside ONNX Runtime on the same, and knows nothing of how the
back end works. Data leaves as `Check`s.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays, GraphBackend
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle
from engine.plans.parity import (
    COSINE_LIMITS,
    PROBABILITY_LIMITS,
    agreement,
    parity_samples,
    probabilities,
)
from engine.probabilities import softmax
from engine.signals.voice import MEMORY
from engine.types import Face
from engine.window import Window

GAP_NS = 66_666_667
TRACKS = 3
REPEATS = 20
ALONE_LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-2}
"""How far a batch may be from its rows alone: the design's figure at fp32, half precision's own grain
else."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it is kept, and the figure that says so."""

    name: str
    passed: bool
    figure: str


def verify(backend: GraphBackend, bundle: Bundle, precision: str, largest: int) -> list[Check]:
    """All checks, in their order; the last ones measure. largest: most faces or windows at once, and most
    tracks. The back end's tracks are overwritten."""
    _, _, windows = parity_samples(bundle)
    shown = {**windows, **{name: np.ones_like(windows[name]) for name in ("video_mask", "audio_mask")}}
    return [
        *_parity(backend, bundle, precision),
        _alone(backend, shown, precision),
        _behind_masks(backend, shown, bundle.sound),
        _absent(backend, shown, bundle.sound),
        _order(backend, shown, bundle.sound),
        _rings(backend, bundle, precision, largest),
        *_times(backend, bundle, largest),
    ]


def _parity(backend: GraphBackend, bundle: Bundle, precision: str) -> list[Check]:
    found, limit = agreement(backend, bundle), PROBABILITY_LIMITS[precision]
    tokens = found.cosine >= COSINE_LIMITS[precision]
    return [
        Check("tokens agree with ONNX Runtime", tokens, f"least cosine {found.cosine:.6f}"),
        Check("scores of sample windows agree", found.windows <= limit, _within(found.windows, limit)),
        Check("scores from sample crops agree", found.frames <= limit, _within(found.frames, limit)),
        Check("scores from sample sound agree", found.voices <= limit, _within(found.voices, limit)),
    ]


def _alone(backend: GraphBackend, windows: Arrays, precision: str) -> Check:
    batch, limit = backend.answers(windows).logits, ALONE_LIMITS[precision]
    rows = [backend.answers({k: v[i : i + 1] for k, v in windows.items()}).logits for i in range(len(batch))]
    worst = float(np.abs(batch - np.concatenate(rows)).max())
    return Check("a batch equals its rows alone", worst <= limit, _within(worst, limit))


def _behind_masks(backend: GraphBackend, windows: Arrays, sound: str) -> Check:
    rng = np.random.default_rng(0)
    inputs = dict(windows)
    for mask in ("video_mask", "audio_mask"):
        inputs[mask] = rng.random(windows[mask].shape) < 0.6
    spoilt = dict(inputs)
    bins = inputs["audio_mask"]
    firsts = np.arange(0, bins.shape[1], bins.shape[1] // windows[sound].shape[1])  # a token is of several
    heard = np.logical_or.reduceat(bins, firsts, axis=1)
    for name, there in (("v", inputs["video_mask"]), ("o", inputs["video_mask"]), (sound, heard)):
        spoilt[name] = np.where(there[..., None], inputs[name], np.float32(np.nan))
    same = np.array_equal(backend.answers(inputs).logits, backend.answers(spoilt).logits)
    return Check("what is behind a mask changes no bit", same, "NaN behind the masks")


def _absent(backend: GraphBackend, windows: Arrays, sound: str) -> Check:
    same = True
    for mask, branch in (
        ("video_mask", ("v", "o", "face_baseline", "face_weight")),
        ("audio_mask", (sound, "voice_baseline", "voice_weight")),
    ):
        absent = {**windows, mask: np.zeros_like(windows[mask])}
        removed = {**absent, **{name: np.zeros_like(windows[name]) for name in branch}}
        logits = backend.answers(absent).logits
        same &= bool(np.isfinite(logits).all()) and np.array_equal(logits, backend.answers(removed).logits)
    return Check("an absent sense has no say", same, "same bits as without it")


def _order(backend: GraphBackend, windows: Arrays, sound: str) -> Check:
    straight = probabilities(backend, windows)
    changes = []
    for names in (("v", "o"), (sound,)):
        backward = {**windows, **{name: windows[name][:, ::-1].copy() for name in names}}
        changes.append(float(np.abs(probabilities(backend, backward) - straight).max()))
    return Check(
        "the order of time matters", min(changes) > 1e-4, f"backward changes {min(changes):.1e} or more"
    )


def _rings(backend: GraphBackend, bundle: Bundle, precision: str, largest: int) -> Check:
    """A short run of several tracks with windows that overlap, one track that changes, beside ONNX
    Runtime."""
    faces, worst = sample_faces(bundle), 0.0
    tracks, ticks = min(TRACKS, largest), bundle.window.ticks
    pair = (backend, OnnxBackend(bundle))
    for each in pair:
        for slot in range(tracks):
            each.reset(slot)
    for end in range(ticks // 2, 2 * ticks, ticks // 2):
        new = range(end - ticks // 2, end)
        order = [(slot, tick) for tick in new for slot in range(tracks)]
        shown = [faces[(5 * slot + tick) % len(faces)] for slot, tick in order]
        windows = [_window(bundle, end, slot) for slot in range(tracks)]
        answers = []
        for each in pair:
            each.observe([slot for slot, _ in order], [tick for _, tick in order], shown)
            answers.append(softmax(each.score(range(tracks), windows).logits))
            if end >= ticks:
                each.reset(0)
        worst = max(worst, float(np.abs(answers[0] - answers[1]).max()))
    limit = PROBABILITY_LIMITS[precision]
    return Check("rings and slow means agree over time", worst <= limit, _within(worst, limit))


def _times(backend: GraphBackend, bundle: Bundle, largest: int) -> list[Check]:
    faces, found = sample_faces(bundle), []
    batches = sorted({1, *(1 << i for i in range(2, 14, 2) if 1 << i < largest)})
    for batch in sorted({*batches, largest}):
        slots, shown = list(range(batch)), [faces[i % len(faces)] for i in range(batch)]
        windows = [_window(bundle, bundle.window.ticks, 0)] * batch

        def observe(slots: list[int] = slots, shown: list[Face] = shown) -> None:
            backend.observe(slots, [0] * len(slots), shown)

        def listen(batch: int = batch) -> None:
            if (voice := backend.voice) is not None:
                mel = np.zeros((batch, MEMORY, voice.bands), np.float32)
                voice.encode(mel, np.ones((batch, MEMORY), np.bool_))

        def score(slots: list[int] = slots, windows: list[Window] = windows) -> None:
            backend.score(slots, windows)

        # A score waits for what was observed before it, so all is timed together.
        whole = _milliseconds(lambda o=observe, h=listen, s=score: (o(), h(), s()))  # type: ignore[misc]
        alone = _milliseconds(score)
        figure = f"{alone:.2f} ms a score, {whole:.2f} ms from crops to scores (medians, {REPEATS} times)"
        found.append(Check(f"{batch} at once", True, figure))
    return found


def sample_faces(bundle: Bundle) -> list[Face]:
    """The sample crops as faces that moved a little; one without an earlier picture."""
    crop, _, _ = parity_samples(bundle)
    pictures: list[NDArray[np.uint8]] = [picture[0].astype(np.uint8) for picture in crop]
    return [
        Face(
            crop=picture,
            previous=picture
            if i == 0
            else np.ascontiguousarray(np.roll(picture, (i % 3 - 1, i % 2), (0, 1))),
            gap_ns=0 if i == 0 else GAP_NS,
            box=(0, 0, 1, 1),
            confidence=1,
            track=0,
        )
        for i, picture in enumerate(pictures)
    ]


def _window(bundle: Bundle, end: int, seed: int) -> Window:
    """The window before tick `end`; a tick in seven unseen, the last two not final yet."""
    spec = bundle.window
    ticks = np.arange(end - spec.ticks, end)
    _, _, samples = parity_samples(bundle)
    row = seed % len(samples[bundle.sound])
    sound = {"mel": np.zeros((0, 0))} | {bundle.sound: samples[bundle.sound][row]}
    return Window(
        **{name: np.asarray(value, dtype=np.float32) for name, value in sound.items()},
        t_end_ns=0,
        end_tick=end,
        final_tick=end - 2,
        video_mask=(ticks >= 0) & (ticks % 7 != 3),
        audio_mask=np.asarray(samples["audio_mask"][row], dtype=np.bool_),
        voice_baseline=np.asarray(samples["voice_baseline"][row], dtype=np.float32),
        voice_weight=float(samples["voice_weight"][row]),
        track=0,
        face=None,
    )


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)


def _within(worst: float, limit: float) -> str:
    return f"differ by {worst:.1e}, {limit:g} allowed"
