"""The average face of the demo: seven means of many stills, none of them anybody's portrait.

`python -m trainer.average_face --data ../shared/data --out realtime/assets` averages frontal stills of
one expression each (LFW expressions, FERPlus), aligned on eyes and mouth and then by dense matching,
made symmetric, and brought to one common geometry by points that were marked by hand on the averages.
Knows nothing of the demo that moves the result. Two files leave it: `average_face.jpg`, seven grey
tiles in the common geometry, and `average_face.json`, the points of each expression.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.labels import LABELS

WIDTH, HEIGHT = 240, 320
EYES_AND_MOUTH = np.array([[84, 140], [156, 140], [120, 222]], np.float32)
CROP = (slice(58, 292), slice(36, 204))  # rows, columns of a tile kept in the asset
MIDDLE = 120.0
LIP_LINE = 223.5  # row at which the closed lips of the common geometry meet
MOST_STILLS = 300
DUPLICATE = 0.8  # correlation above which two stills are the same photograph

# x,y on the right half of the picture, one column for each of LABELS' seven averages.
MARKS = """
brow_inner       141,127 138,128 137,131 135,132 140,120 138,129 140,125
brow_middle      153,122 150,121 150,122 150,125 152,117 152,125 153,119
brow_outer       172,124 169,118 166,122 166,118 171,120 174,124 172,121
eye_inner        144,143 142,144 144,145 142,143 142,142 142,144 143,143
lid_upper        157,134 157,134 158,138 157,135 157,132 157,136 156,134
lid_outer        168,137 169,137 169,139 168,136 168,134 170,138 168,137
eye_outer        176,146 177,146 176,146 178,144 177,145 180,147 177,146
lid_lower        157,147 157,146 157,148 157,146 157,148 158,147 157,148
cheek            160,165 160,160 160,162 160,159 160,165 160,160 160,164
nose_tip         120,184 120,185 120,182 120,181 120,181 120,181 120,181
nose_base        120,197 120,203 120,195 120,202 120,195 120,200 120,195
nostril          132,191 133,196 131,192 133,189 132,188 132,191 131,187
nose_wing        145,186 146,187 143,186 147,184 145,185 147,183 144,184
fold             154,205 160,205 155,207 156,203 158,205 157,203 153,203
mouth_corner     151,224 154,224 151,226 148,227 150,226 150,223 148,227
upper_lip_top    120,215 120,216 120,214 120,213 120,213 120,212 120,214
upper_lip        120,220 120,226 120,219 120,222 120,220 120,217 120,219
upper_lip_side   136,221 136,225 136,219 136,221 136,219 136,217 136,219
lower_lip        120,227 120,235 120,228 120,236 120,232 120,226 120,233
lower_lip_side   136,227 136,233 136,229 136,237 136,232 136,226 136,233
lower_lip_bottom 120,241 120,249 120,242 120,248 120,246 120,241 120,247
chin             120,268 120,270 120,266 120,272 120,270 120,268 120,274
jaw              172,245 172,245 172,245 172,245 172,245 172,245 172,245
temple           192,190 192,190 192,190 192,190 192,190 192,190 192,190
forehead         150,95  150,95  150,95  150,95  150,93  150,95  150,93
side             188,140 188,140 188,140 188,140 188,140 188,140 188,140
"""

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Still:
    """One aligned still: image (320, 240) uint8; yaw, the nose's place between eyes, in eye distances."""

    image: NDArray[np.uint8]
    label: str
    photograph: bool
    yaw: float


def stills(data: Path) -> Iterator[tuple[NDArray[np.uint8], str, bool]]:
    """(picture, label, whether an LFW photograph) of all stills worth averaging."""
    for row in csv.DictReader((data / "lfw_expressions/labels.csv").open(newline="")):
        picture = cv2.imread(str(data / "lfw_expressions/images" / row["image"]), cv2.IMREAD_GRAYSCALE)
        if row["label"] in LABELS and picture is not None:
            yield cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), row["label"], True
    least = {"sad": 9, "angry": 9, "surprised": 9, "fearful": 6, "disgust": 5}
    for row in csv.DictReader((data / "ferplus/index.csv").open(newline="")):
        label = max(LABELS, key=lambda name: int(row[name]))
        if row["split"] != "train" or label not in least or int(row[label]) < least[label]:
            continue
        sheet = cv2.imread(str(data / "ferplus" / row["sheet"]), cv2.IMREAD_GRAYSCALE)
        top, left = (48 * n for n in divmod(int(row["tile"]), 32))
        tile = cv2.resize(
            sheet[top : top + 48, left : left + 48], None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC
        )
        yield cv2.copyMakeBorder(tile, 40, 40, 40, 40, cv2.BORDER_REPLICATE), label, False


def align(data: Path) -> list[Still]:
    """Frontal stills with eyes and mouth on the places of the average."""
    model = data / "yunet/face_detection_yunet_2023mar.onnx"
    finder = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.7)
    result = []
    for picture, label, photograph in stills(data):
        finder.setInputSize(picture.shape[::-1])
        faces = finder.detect(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))[1]
        if faces is None:
            continue
        points = max(faces, key=lambda face: face[2] * face[3])[4:14].reshape(5, 2)
        left, right = points[np.argsort(points[:2, 0])]
        mouth = points[3:].mean(0)
        across = (right - left) / np.linalg.norm(right - left)
        distance = float(np.linalg.norm(right - left))
        eyes = (left + right) / 2
        yaw = float((points[2] - (eyes + mouth) / 2) @ across) / distance
        length = float(np.linalg.norm(mouth - eyes)) / distance
        if abs(yaw) > 0.09 or not 0.8 < length < 1.4:
            continue
        matrix = cv2.getAffineTransform(np.stack([left, right, mouth]).astype(np.float32), EYES_AND_MOUTH)
        image = cv2.warpAffine(
            picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        result.append(Still(image=image, label=label, photograph=photograph, yaw=yaw))
    return result


def normalised(image: NDArray[np.uint8]) -> Image:
    """The still with the same mean and contrast over the inner face as every other."""
    value = image.astype(np.float32)
    inner = value[110:250, 60:180]
    return np.asarray((value - inner.mean()) / max(float(inner.std()), 12.0), np.float32)


def _flat(image: Image) -> NDArray[np.uint8]:
    """Light taken off, for matching only."""
    detail = image - cv2.GaussianBlur(image, (0, 0), 25)
    detail /= np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 30)) + 0.25
    return np.clip(detail * 40 + 128, 0, 255).astype(np.uint8)


def choose(found: list[Still], label: str, neutral: Image | None) -> list[Image]:
    """The stills that one average is made of: the most frontal ones, no photograph twice.

    Sad faces of these sets mostly cry with wide open mouths; the 60 whose mouths are nearest to the
    neutral one are taken instead.
    """
    mine = [still for still in found if still.label == label]
    if label in ("neutral", "happy", "surprised", "angry"):
        mine = [still for still in mine if still.photograph]
    images: list[Image] = []
    looks: list[Image] = []
    for still in sorted(mine, key=lambda still: abs(still.yaw)):
        image = normalised(still.image)
        small = cv2.resize(_flat(image)[100:260, 50:190], (28, 32), interpolation=cv2.INTER_AREA)
        look = small.astype(np.float32).ravel()
        look = (look - look.mean()) / np.linalg.norm(look - look.mean())
        if all(float(np.max((look @ other, _mirrored(look) @ other))) < DUPLICATE for other in looks):
            images.append(image)
            looks.append(look)
    if label == "sad" and neutral is not None:
        images.sort(key=lambda image: -_mouth_likeness(image, neutral))
        images = images[:60]
    return images[:MOST_STILLS]


def _mirrored(look: Image) -> Image:
    return look.reshape(32, 28)[:, ::-1].ravel()


def _mouth_likeness(image: Image, other: Image) -> float:
    a, b = (cv2.GaussianBlur(i, (0, 0), 3)[205:245, 85:155].ravel() for i in (image, other))
    return float(np.corrcoef(a, b)[0, 1])


def average(images: list[Image], rounds: tuple[float, ...] = (10, 8, 6, 5)) -> Image:
    """Mean of the stills and their mirror images, each warped onto the mean by dense flow.

    rounds: smoothing of the flow in pixels, one number a round. The 60 % that agree best count, and of
    their values at a pixel the middle 60 %.
    """
    pictures = images + [np.ascontiguousarray(image[:, ::-1]) for image in images]
    flats = [_flat(picture) for picture in pictures]
    matcher = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    mean = np.mean(pictures, axis=0)
    for smoothing in rounds:
        target = _flat(mean)
        flows = [cv2.GaussianBlur(matcher.calc(target, flat, None), (0, 0), smoothing) for flat in flats]
        shape = np.mean(flows, axis=0)
        warped = np.stack(
            [
                cv2.remap(
                    picture,
                    columns + (flow - shape)[..., 0],
                    rows + (flow - shape)[..., 1],
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                for picture, flow in zip(pictures, flows, strict=True)
            ]
        )
        inner = warped[:, 100:260, 50:190].reshape(len(warped), -1)
        inner = inner - inner.mean(1, keepdims=True)
        likeness = inner @ inner.mean(0) / np.linalg.norm(inner, axis=1)
        kept = np.sort(warped[likeness >= np.quantile(likeness, 0.4)], axis=0)
        mean = kept[len(kept) // 5 : len(kept) - len(kept) // 5].mean(0)
        mean = (mean + mean[:, ::-1]) / 2
    return np.asarray(mean, np.float32)


def marks() -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Names of the points, and for each label their places (P, 2)."""
    rows = [line.split() for line in MARKS.strip().splitlines()]
    places = {
        label: np.array([[float(v) for v in row[n + 1].split(",")] for row in rows])
        for n, label in enumerate(LABELS)
    }
    return [row[0] for row in rows], places


def common(places: NDArray[np.float64], names: list[str]) -> NDArray[np.float64]:
    """The common geometry: the neutral points with the lips closed on the lip line."""
    result = places.copy()
    for n, name in enumerate(names):
        if name in ("upper_lip", "lower_lip", "upper_lip_side", "lower_lip_side"):
            result[n, 1] = LIP_LINE
    return result


def displacement(start: NDArray[np.float64], end: NDArray[np.float64]) -> Image:
    """(320, 240, 2): smooth field that carries `start` points to `end`, mirrored to both halves."""
    edge = np.array([[x, y] for x in (0, 60, 120, 180, 240) for y in (0, 160, 320)], np.float64)
    a, b = (np.vstack([p, (2 * MIDDLE, 0) + p * (-1, 1), edge]) for p in (start, end))
    first = np.unique(np.round(a, 6), axis=0, return_index=True)[1]
    a, b = a[first], b[first]
    count = len(a)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = np.linalg.norm(a[:, None] - a[None], axis=2)
    system[:count, count:] = np.hstack([np.ones((count, 1)), a])
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.vstack([b - a, np.zeros((3, 2))]))
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    grid = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)
    field = np.linalg.norm(grid[:, None] - a[None], axis=2) @ weights[:count]
    field += weights[count] + grid @ weights[count + 1 :]
    return field.reshape(HEIGHT, WIDTH, 2).astype(np.float32)


def to_common(image: Image, places: NDArray[np.float64], neutral: NDArray[np.float64]) -> Image:
    """One average in the common geometry; what was between its lips is left out."""
    names = marks()[0]
    reference = common(neutral, names)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    sheets = []
    for other_lip in ("lower_", "upper_lip"):
        kept = [n for n, name in enumerate(names) if not name.startswith(other_lip) or name == "lower_lid"]
        field = displacement(reference[kept], places[kept])
        sheets.append(
            cv2.remap(image, columns + field[..., 0], rows + field[..., 1], interpolation=cv2.INTER_CUBIC)
        )
    below = np.clip(rows - LIP_LINE + 0.5, 0, 1)
    return np.asarray(sheets[0] * (1 - below) + sheets[1] * below, np.float32)


def likened(image: Image, neutral: Image) -> Image:
    """The expression's inner face on the neutral head: its folds and shades, not its light."""
    inner = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.ellipse(inner, (120, 174), (62, 70), 0, 0, 360, 1, -1)
    inner = cv2.GaussianBlur(inner, (0, 0), 8)
    weight = inner + 1e-3
    detail = image - neutral
    light = cv2.GaussianBlur(detail * weight, (0, 0), 20) / cv2.GaussianBlur(weight, (0, 0), 20)
    return np.asarray(neutral + (detail - light) * inner, np.float32)


def main() -> None:
    """Command line: write the two asset files."""
    parser = argparse.ArgumentParser(description="Make the average face of the demo.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with lfw_expressions, ferplus, yunet"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the two files")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    found = align(arguments.data)
    names, places = marks()
    means: dict[str, Image] = {}
    for label in LABELS:
        images = choose(found, label, means.get("neutral"))
        means[label] = average(images)
        print(f"{label}: {len(images)} stills", flush=True)
    face = {label: to_common(means[label], places[label], places["neutral"]) for label in LABELS}
    tiles = [likened(face[label], face["neutral"])[CROP] for label in LABELS]
    strip = np.clip(np.hstack(tiles) * 40 + 150, 0, 255).astype(np.uint8)
    cv2.imwrite(str(arguments.out / "average_face.jpg"), strip, [cv2.IMWRITE_JPEG_QUALITY, 90])
    geometry = {
        "lip_line": LIP_LINE,
        "middle": MIDDLE,
        "corner": [CROP[1].start, CROP[0].start],
        "names": names,
        "common": common(places["neutral"], names).tolist(),
        "expressions": {label: places[label].tolist() for label in LABELS},
    }
    (arguments.out / "average_face.json").write_text(json.dumps(geometry))


if __name__ == "__main__":
    main()
