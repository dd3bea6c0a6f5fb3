"""The pictures of a report, as PNG files: confusion, reliability, robustness, attention.

It draws plain values of `trainer.clip_report` and `trainer.robustness` and an `Attention`, and measures
nothing. Needs matplotlib (`pip install -e ".[report]"`).
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from trainer.heat_map import Attention
from trainer.metrics import BINS

DPI = 130
INK, FAINT = "#22262b", "#9aa3ad"
COLOURS = {"video": "#2f6fb5", "audio": "#d9822b", "fused": "#1f7a5c", "expression": "#2f6fb5"}
BLUES = LinearSegmentedColormap.from_list("share", ("#ffffff", "#bcd3ea", "#2f6fb5", "#12385f"))
HEAT = LinearSegmentedColormap.from_list("heat", ("#ffffff", "#fde3b8", "#ee8a2d", "#b5281e", "#4a0d24"))
STYLE = {"fontsize": 8, "color": INK}
AXES = {
    "sound_snr_db": "sound-to-noise ratio, dB",
    "lost_frames": "share of pictures lost",
    "offset_ms": "sound later than picture, ms",
    "light_stops": "exposure, stops",
    "blur": "blur (deviation / face width)",
    "face_px": "face at most so wide, px",
    "window_s": "window, seconds",
}
UNTOUCHED = {"sound_snr_db": "as is", "face_px": "as is", "window_s": "whole"}


def draw_confusion(heads: dict[str, dict[str, Any]], path: Path) -> None:
    """A matrix a head: rows are labels, shades are shares of the row, numbers are clips."""
    labels = next(iter(heads.values()))["labels"]
    side = 0.46 * len(labels) + 0.7
    figure = Figure(figsize=(side * len(heads) + 1.2, side + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(heads), squeeze=False, sharey=True)[0]
    for ax, (head, summary) in zip(axes, heads.items(), strict=True):
        counts = np.array(summary["confusion"])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = ax.imshow(shares, cmap=BLUES, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, column] > 0.5
                ax.text(
                    column, row, str(count), ha="center", va="center", fontsize=8,
                    color="white" if dark else INK,
                )  # fmt: skip
        ax.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(labels)), labels)
        ax.set_title(f"{head}: UAR {summary['uar']:.2f}, {summary['clips']} clips", fontsize=9, color=INK)
        ax.set_xlabel("answer", **STYLE)
        _plain(ax)
    axes[0].set_ylabel("label", **STYLE)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.7, pad=0.02)
    bar.set_label("share of the label's clips", **STYLE)
    _plain(bar.ax)
    figure.savefig(path)


def draw_reliability(heads: dict[str, dict[str, Any]], path: Path) -> None:
    """A diagram a head: accuracy against confidence, and below how many clips are so sure."""
    figure = Figure(figsize=(2.9 * len(heads) + 0.5, 3.9), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(heads), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (head, summary) in enumerate(heads.items()):
        top, bottom = grid[:, column]
        bins = summary["reliability"]
        confidence, accuracy, clips = (
            np.array([each[name] for each in bins]) for name in ("confidence", "accuracy", "clips")
        )
        colour = COLOURS.get(head, INK)
        top.plot((0, 1), (0, 1), color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        top.vlines(confidence, accuracy, confidence, color=colour, alpha=0.35, linewidth=2)
        top.plot(confidence, accuracy, color=colour, linewidth=1.2)
        top.scatter(confidence, accuracy, s=12 + 90 * clips / clips.max(), color=colour, zorder=3)
        top.set_title(f"{head}: calibration error {summary['ece']:.3f}", fontsize=9, color=INK)
        top.set_ylim(-0.03, 1.03)
        centres = (np.ceil(confidence * BINS) - 0.5) / BINS
        bottom.bar(centres, clips, width=0.8 / BINS, color=colour, alpha=0.7)
        bottom.set_xlim(-0.03, 1.03)
        bottom.set_xlabel("confidence of the answer", **STYLE)
        for ax in (top, bottom):
            _plain(ax)
    grid[0, 0].set_ylabel("share that is right", **STYLE)
    grid[1, 0].set_ylabel("clips", **STYLE)
    figure.savefig(path)


def draw_robustness(report: dict[str, Any], lead: str, path: Path) -> None:
    """A panel a disturbance: UAR of every head against its level; the band is the leading head's interval."""
    curves = report["curves"]
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.3, 2.5 * rows + 0.5), dpi=DPI, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for ax, (kind, points) in zip(panels, curves.items(), strict=False):
        _curve(ax, kind, points, lead)
        ax.axhline(1 / report["labels"], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        ax.set_ylim(0, 1)
    for ax in panels[len(curves) :]:
        ax.remove()
    for ax in panels[: len(curves) : columns]:
        ax.set_ylabel("UAR", **STYLE)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    told = f"clips: {report['clips']}, speakers: {report['speakers']}"
    title = (", " if columns > 1 else "\n").join((told, "dotted: chance, ring: untouched"))
    figure.suptitle(title, fontsize=9, color=INK)
    figure.savefig(path)


def _curve(ax: Axes, kind: str, points: list[dict[str, Any]], lead: str) -> None:
    """Levels are set out evenly: their steps are ratios as often as differences."""
    places = np.arange(len(points))
    untouched = [p for p, point in zip(places, points, strict=True) if point["level"] in (None, 0)][-1:]
    if kind == "sound_snr_db":
        untouched = [0]
    for head in points[0]["heads"]:
        uars = np.array([point["heads"][head]["uar"] for point in points])
        colour = COLOURS.get(head, INK)
        ax.plot(places, uars, color=colour, linewidth=1.6, marker="o", markersize=3, label=head)
        ax.plot(untouched, uars[untouched], "o", markersize=7, markerfacecolor="none", color=colour)
        ends = [point["heads"][head]["interval"] for point in points]
        if head == lead and None not in ends[0]:
            low, high = np.array(ends).T
            ax.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    names = [UNTOUCHED[kind] if each["level"] is None else f"{each['level']:g}" for each in points]
    ax.set_xticks(places, names)
    ax.set_xlabel(AXES[kind], **STYLE)
    _plain(ax)
    ax.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    ax.set_axisbelow(True)


def draw_attention(attention: Attention, name: str, path: Path) -> None:
    """Both heat maps over the same axes (picture upward, sound to the right), crops beside, mel below.

    Weights are shown against an even spread over all that was seen or heard, which is 1.
    """
    figure = Figure(figsize=(11.2, 6.6), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(0.47, 4, 4, 0.12), height_ratios=(4, 1))
    seen, heard = attention.video_mask, attention.audio_mask
    both = seen[:, None] & heard[None]
    of_video = np.where(both, attention.of_video * heard.sum(), np.nan)
    of_audio = np.where(both, attention.of_audio.T * seen.sum(), np.nan)
    top = max(2.0, float(np.nanquantile(np.stack((of_video, of_audio)), 0.995)))
    extent = (attention.start_s, attention.end_s, attention.start_s, attention.end_s)
    begin = max(0.0, attention.start_s)
    titles = ("what the picture takes from the sound", "what the sound takes from the picture")
    sides = ("each row is one query", "each column is one query")
    first: Axes | None = None
    for column, (weights, title, side) in enumerate(zip((of_video, of_audio), titles, sides, strict=True), 1):
        ax = figure.add_subplot(grid[0, column], sharex=first, sharey=first)
        first = first or ax
        image = ax.imshow(
            weights, cmap=HEAT, vmin=0, vmax=top, origin="lower", aspect="auto", extent=extent,
            interpolation="nearest",
        )  # fmt: skip
        ax.plot((begin, attention.end_s), (begin, attention.end_s), color=FAINT, linewidth=0.8, linestyle=":")
        ax.set_title(f"{title}\n{side}", fontsize=9, color=INK)
        ax.set_facecolor("#eceff1")
        ax.set_xlim(begin, attention.end_s)
        ax.set_ylim(begin, attention.end_s)
        ax.tick_params(labelbottom=False, labelleft=False)
        _plain(ax)
        below = figure.add_subplot(grid[1, column], sharex=ax)
        mel = np.where(attention.mel_mask[:, None], attention.mel, np.nan)
        below.imshow(
            mel.T, cmap="Greys", origin="lower", aspect="auto", extent=(*extent[:2], 0, mel.shape[1])
        )
        below.set_facecolor("#eceff1")
        below.set_xlim(begin, attention.end_s)
        below.set_xlabel("time of the sound, s", **STYLE)
        below.yaxis.set_major_locator(NullLocator())
        below.set_ylabel("log-mel" if column == 1 else "", **STYLE)
        _plain(below)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[0, 3]))
    bar.set_label("weight (1: even)", **STYLE)
    _plain(bar.ax)
    _crops(figure.add_subplot(grid[0, 0], sharey=first), attention, begin)
    figure.suptitle(f"IFE attention: {name}", fontsize=10, color=INK)
    figure.savefig(path)


def _crops(ax: Axes, attention: Attention, begin: float) -> None:
    """Faces along the time of the picture, each at its tick, as many as fit without covering one another."""
    seconds = attention.end_s - begin
    tick_s = (attention.end_s - attention.start_s) / len(attention.video_mask)
    slots = 8
    height = seconds / slots
    for slot in range(slots):
        centre = begin + (slot + 0.5) * height
        near = [
            (abs(attention.start_s + (tick + 0.5) * tick_s - centre), tick)
            for tick in attention.crops
            if abs(attention.start_s + (tick + 0.5) * tick_s - centre) <= height / 2
        ]
        if near:
            crop = attention.crops[min(near)[1]]
            extent = (0, 1, centre - 0.47 * height, centre + 0.47 * height)
            ax.imshow(crop, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    ax.set_xlim(0, 1)
    ax.set_ylim(begin, attention.end_s)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(FixedLocator(list(np.arange(np.ceil(2 * begin) / 2, attention.end_s, 0.5))))
    ax.set_ylabel("time of the picture, s", **STYLE)
    _plain(ax)


def _plain(ax: Axes) -> None:
    """No frame, small ink."""
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(labelsize=8, length=2, color=FAINT, labelcolor=INK)
