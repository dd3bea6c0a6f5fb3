"""A trained model on disk: two graphs and a manifest that says everything training and live must share.

A bundle may also carry two small graphs that find faces (`FaceGraphs`), so that nothing has to be fetched.

`load_bundle` reads the manifest, checks every file's digest and that the graphs take and give what the
manifest promises, and returns the frozen `Bundle`; what does not fit is refused with a BundleError that
names the file. A bundle is data: loading one executes and unpickles nothing. This file knows no inference
engine; the graphs leave it as paths.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.bundle_ports import check_graph, expected_ports
from engine.errors import BundleError
from engine.leaning import LeaningParams
from engine.signals.align import CropParams
from engine.signals.flow import FlowParams
from engine.signals.sound import MelParams
from engine.signals.voice import MEMORY, STEP
from engine.types import SECOND_NS, Float32, JsonMap

SCHEMA = 1
MANIFEST = "manifest.json"
DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "live"
HEADS = ("video", "audio", "fused")
SENSES = HEADS[:2]
SOUNDS = ("mel", "waveform", "voice_tokens")  # how a window model may take sound
DIGEST_CHARACTERS = 12
LONGEST_S = 10
MOST_ATTRIBUTES = 64  # a message of the feed holds no more

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """The grid of time. seconds: a window's length; tick_hz: video ticks; mel_hz: bins of sound."""

    seconds: float
    tick_hz: int
    mel_hz: int

    @property
    def ticks(self) -> int:
        """Video ticks in a window."""
        return round(self.seconds * self.tick_hz)

    @property
    def bins(self) -> int:
        """Mel bins in a window."""
        return round(self.seconds * self.mel_hz)

    @property
    def ring_ticks(self) -> int:
        """Length of a ring of tokens: a window, and as much again (and a little) for what runs ahead."""
        return 2 * self.ticks + 8

    @property
    def window_ns(self) -> int:
        """A window's length in nanoseconds."""
        return round(self.seconds * SECOND_NS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpec:
    """Widths of a frame's two tokens, appearance (v) and motion (o)."""

    appearance: int
    motion: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineSpec:
    """The slow means (see `engine.baseline`).

    prior_s, tau_s: seconds; voice_floor: natural log of power below the loudest bin that still is voice.
    face_mean: (Dv + Do,) float32 and voice_mean: (`Bundle.voice_width`,) float32, the training set's means.
    """

    prior_s: float
    tau_s: float
    voice_floor: float
    face_mean: Float32
    voice_mean: Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceGraphs:
    """The networks that find faces (see `engine.signals.face_networks`), and how sure is sure enough.

    find_at: the least confidence, 0..1, of a face found; follow_at: of one looked at again.
    """

    finder: Path
    aligner: Path
    find_at: float
    follow_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceGraph:
    """The network that hears voices (see `engine.signals.voice`), the numbers that it says a token, and the
    width of a token, the log-mel beside them."""

    encoder: Path
    said: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """A checked bundle. Paths are absolute; every file was read and had the manifest's digest.

    digest: the first 12 hexadecimal digits of the manifest's SHA-256, which names the model on the feed.
    attributes: names of the continuous attributes that the window model gives beside the labels, often none.
    attribute_ranges: what -1 and 1 of an attribute were on the scale it was rated on, where that differs.
    temperatures: by head; logits are divided by it before the softmax.
    smoothing_s, sure_after_s, leaning: see `engine.smoothing`, `engine.evidence`, `engine.leaning`.
    sound: what of a window's sound the window model takes, and under which name: one of SOUNDS.
    faces: the face finder it carries, None where it has none.
    voice: what makes voice tokens, None where the window model takes none.
    """

    path: Path
    digest: str
    name: str
    version: str
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    attribute_ranges: dict[str, tuple[float, float]]
    heads: tuple[str, ...]
    lead: str
    temperatures: dict[str, float]
    smoothing_s: float
    sure_after_s: dict[str, float]
    crop: CropParams
    window: WindowSpec
    sound: str
    mel: MelParams
    flow: FlowParams
    tokens: TokenSpec
    baseline: BaselineSpec
    frame_encoder: Path
    window_model: Path
    parity: Path
    training: JsonMap
    licence: str
    faces: FaceGraphs | None = None
    leaning: LeaningParams | None = None
    voice: VoiceGraph | None = None

    @property
    def sound_shape(self) -> tuple[int, ...]:
        """A window's sound as the window model takes it: (M, F) of log-mel, (M * hop,) samples, or (M / 4, K)
        of voice tokens."""
        bins, mel = self.window.bins, self.mel
        if self.voice is not None:
            return bins // STEP, self.voice.width
        return (bins * mel.hop,) if self.sound == "waveform" else (bins, mel.bands)

    @property
    def voice_width(self) -> int:
        """Of the voice's slow mean: of voice tokens where there are any, else of the log-mel."""
        return self.mel.bands if self.voice is None else self.voice.width


def load_bundle(path: str | Path | None = None) -> Bundle:
    """Read and check the bundle in folder `path`, or the one that comes with the package.

    Raises BundleError where the manifest is missing, unreadable or of another schema, where a file is
    missing or altered, and where a graph does not take and give what the manifest says.
    """
    folder = Path(path).resolve() if path is not None else DEFAULT_BUNDLE
    file = folder / MANIFEST
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise BundleError(f"No bundle in {folder}: {MANIFEST} cannot be read ({error.strerror}).") from error
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{file} does not hold a map.")
    if manifest.get("schema") != SCHEMA:
        raise BundleError(
            f"{file} has schema {manifest.get('schema')!r}; this version reads schema {SCHEMA}."
        )
    try:
        bundle = _parse(folder, hashlib.sha256(raw).hexdigest()[:DIGEST_CHARACTERS], manifest)
    except KeyError as error:
        raise BundleError(f"{file} lacks the key {error}.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{file} does not fit: {error}.") from error
    contents = _read_files(folder, manifest["files"])
    for graph, inputs, outputs in expected_ports(bundle):
        check_graph(graph, contents[graph.name], inputs, outputs)
    return bundle


def _parse(folder: Path, digest: str, manifest: JsonMap) -> Bundle:
    labels, heads = _words(manifest["labels"]), _words(manifest["heads"])
    temperatures = {head: float(manifest["temperatures"][head]) for head in heads}
    mel = MelParams(**manifest["mel"])
    voice = _voice(folder, manifest, mel.bands) if manifest.get("sound") == "voice_tokens" else None
    tokens = TokenSpec(**_each(int, manifest["tokens"]))
    crop = manifest["crop"]
    bundle = Bundle(
        path=folder,
        digest=digest,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        labels=labels,
        attributes=_words(manifest["attributes"]),
        attribute_ranges={
            str(name): (float(low), float(high))
            for name, (low, high) in manifest.get("attribute_ranges", {}).items()
        },
        heads=heads,
        lead=manifest["lead"],
        temperatures=temperatures,
        smoothing_s=float(manifest.get("smoothing_s", 0.0)),
        sure_after_s=_each(float, manifest.get("sure_after_s", {})),
        crop=CropParams(
            size=int(crop["size"]),
            channels=int(crop["channels"]),
            template=tuple((float(x), float(y)) for x, y in crop["template"]),
        ),
        window=_window(manifest["window"]),
        sound=manifest.get("sound", "mel"),
        mel=mel,
        flow=FlowParams(**manifest["flow"]),
        tokens=tokens,
        baseline=_baseline(
            manifest["baseline"], tokens.appearance + tokens.motion, voice.width if voice else mel.bands
        ),
        frame_encoder=folder / _plain(manifest["graphs"]["frame_encoder"], manifest["files"]),
        window_model=folder / _plain(manifest["graphs"]["window_model"], manifest["files"]),
        parity=folder / _plain(manifest["parity"]["file"], manifest["files"]),
        training=dict(manifest["training"]),
        licence=str(manifest["licence"]),
        faces=_faces(folder, manifest["faces"], manifest["files"]) if "faces" in manifest else None,
        leaning=LeaningParams(**manifest["leaning"]) if "leaning" in manifest else None,
        voice=voice,
    )
    _check_sense(bundle)
    return bundle


def _check_sense(bundle: Bundle) -> None:
    window, mel = bundle.window, bundle.mel
    if bundle.heads != HEADS or bundle.lead not in HEADS:
        raise ValueError(f"heads {bundle.heads} led by {bundle.lead!r}, not {HEADS} led by one of them")
    if not bundle.labels or len(set(bundle.labels)) != len(bundle.labels):
        raise ValueError("labels are missing or named twice")
    if len(set(bundle.attributes)) != len(bundle.attributes) or len(bundle.attributes) > MOST_ATTRIBUTES:
        raise ValueError(f"more than {MOST_ATTRIBUTES} attributes, or one named twice")
    if any(not low < high for low, high in bundle.attribute_ranges.values()):
        raise ValueError(f"attribute_ranges {bundle.attribute_ranges} do not all rise")
    if any(not 0 < temperature < 1000 for temperature in bundle.temperatures.values()):
        raise ValueError(f"temperatures {bundle.temperatures} are not all positive")
    times_s = {"smoothing_s": bundle.smoothing_s} | bundle.sure_after_s
    if any(not 0 <= time_s <= LONGEST_S for time_s in times_s.values()):
        raise ValueError(f"smoothing_s or one of sure_after_s is not between 0 and {LONGEST_S}: {times_s}")
    if bundle.sure_after_s.keys() not in (set(), set(SENSES)):
        raise ValueError(f"sure_after_s {bundle.sure_after_s} is not for each of {SENSES}")
    if bundle.leaning is not None and bundle.leaning.rest not in bundle.labels:
        raise ValueError(f"leaning.rest is {bundle.leaning.rest!r}, none of the labels {bundle.labels}")
    if bundle.sound not in SOUNDS:
        raise ValueError(f"sound is {bundle.sound!r}, none of {SOUNDS}")
    if window.mel_hz * mel.hop != mel.rate_hz:
        raise ValueError(f"mel_hz {window.mel_hz} is not rate_hz {mel.rate_hz} / hop {mel.hop}")
    if not 1 <= window.ticks <= 10_000 or not 1 <= window.bins <= 100_000:
        raise ValueError(f"a window of {window.ticks} ticks and {window.bins} mel bins")
    if bundle.voice is not None and (window.bins < MEMORY or window.bins % STEP):
        raise ValueError(f"voice tokens in a window of {window.bins} mel bins, not at least {MEMORY}")
    if len(bundle.crop.template) != 5:
        raise ValueError(f"crop.template has {len(bundle.crop.template)} points, not 5")


def _faces(folder: Path, faces: JsonMap, files: JsonMap) -> FaceGraphs:
    find_at, follow_at = float(faces["find_at"]), float(faces["follow_at"])
    if not 0 < find_at < 1 or not 0 < follow_at < 1:
        raise ValueError(f"faces has find_at {find_at} and follow_at {follow_at}, not both between 0 and 1")
    return FaceGraphs(
        finder=folder / _plain(faces["finder"], files),
        aligner=folder / _plain(faces["aligner"], files),
        find_at=find_at,
        follow_at=follow_at,
    )


def _voice(folder: Path, manifest: JsonMap, bands: int) -> VoiceGraph:
    voice = manifest["voice"]
    encoder, width = folder / _plain(voice["encoder"], manifest["files"]), int(voice["width"])
    return VoiceGraph(encoder=encoder, said=width - STEP * bands, width=width)


def _window(window: JsonMap) -> WindowSpec:
    return WindowSpec(
        seconds=float(window["seconds"]), tick_hz=int(window["tick_hz"]), mel_hz=int(window["mel_hz"])
    )


def _baseline(baseline: JsonMap, face_width: int, voice_width: int) -> BaselineSpec:
    means = {}
    for key, width in (("face_mean", face_width), ("voice_mean", voice_width)):
        mean = np.asarray(baseline[key], dtype=np.float32)
        if mean.shape != (width,) or not np.isfinite(mean).all():
            raise ValueError(f"baseline.{key} has shape {mean.shape}, not ({width},), or is not finite")
        means[key] = mean
    prior_s, tau_s, voice_floor = (float(baseline[key]) for key in ("prior_s", "tau_s", "voice_floor"))
    if min(prior_s, tau_s, voice_floor) <= 0:
        raise ValueError(
            f"baseline has prior_s {prior_s}, tau_s {tau_s}, voice_floor {voice_floor}, not all > 0"
        )
    return BaselineSpec(prior_s=prior_s, tau_s=tau_s, voice_floor=voice_floor, **means)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{value!r} is not a list of words")
    return tuple(value)


def _each(kind: Callable[[Any], T], numbers: JsonMap) -> dict[str, T]:
    return {key: kind(value) for key, value in numbers.items()}


def _plain(name: Any, files: JsonMap) -> str:
    """The name of a listed file; a bundle names nothing outside its folder."""
    if not isinstance(name, str) or name not in files:
        raise ValueError(f"{name!r} is not among its files")
    return name


def _read_files(folder: Path, files: JsonMap) -> dict[str, bytes]:
    contents = {}
    for name, digest in files.items():
        if Path(name).name != name:
            raise BundleError(f"{folder / MANIFEST} names the file {name!r}, which is not a plain name.")
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{folder / name} is missing or unreadable ({error.strerror}).") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleError(f"{folder / name} is damaged: its SHA-256 is not the one in {MANIFEST}.")
        contents[name] = data
    return contents
