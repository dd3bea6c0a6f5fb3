"""Ticks, bins, bounds and masks: a window depends on what was captured, not on when it arrived."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.baseline import SlowMean, VoiceGate
from engine.bundle import Bundle
from engine.grid import Grid
from engine.sound_lane import MOST_BINS
from engine.types import Block, Face, Observation
from engine.video_lane import WAITING_TICKS, Released
from engine.window import UNBOUNDED_NS, Timeline, Window

MS = 1_000_000
EPOCH_NS = 5_000_000_123
CROP = np.zeros((112, 112), dtype=np.uint8)


def face(track: int = 0, confidence: float = 0.9) -> Face:
    return Face(crop=CROP, previous=CROP, gap_ns=0, box=(1, 2, 3, 4), confidence=confidence, track=track)


def seen(t_ns: int, seq: int = 0, track: int | None = 0) -> Observation:
    """A face whose confidence names the picture, or none where `track` is None."""
    return Observation(t_ns=EPOCH_NS + t_ns, seq=seq, face=None if track is None else face(track, seq))


def heard(t_ns: int, samples: int, seed: int = 0, level: float = 0.1) -> Block:
    noise = np.random.default_rng(seed).standard_normal(samples) * level
    return Block(t_ns=EPOCH_NS + t_ns, seq=seed, samples=noise.astype(np.float32))


def names(released: Released) -> list[tuple[int, int]]:
    return [(tick, int(face.confidence)) for tick, face in released]


@given(st.integers(0, 10**15), st.sampled_from([7, 10, 15, 30, 100]), st.integers(-(10**9), 10**9))
def test_grid_cells_are_half_open_and_leave_no_gap(epoch: int, hz: int, cell: int) -> None:
    grid = Grid(epoch, hz)
    first, beyond = grid.start_ns(cell), grid.start_ns(cell + 1)
    assert grid.cell(first) == grid.cell(beyond - 1) == cell
    assert grid.cell(first - 1) == cell - 1
    assert grid.cell(beyond) == cell + 1


def test_the_face_nearest_to_the_centre_of_a_tick_is_used_once_it_has_closed(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    assert line.push_observation(seen(20 * MS, 1)) == []
    assert line.push_observation(seen(60 * MS, 2)) == []
    assert line.push_observation(seen(52 * MS, 3, track=None)) == []
    assert line.push_observation(seen(99 * MS, 4)) == []
    assert names(line.push_observation(seen(100 * MS, 5))) == [(0, 2)]
    assert names(line.advance_video(EPOCH_NS + 350 * MS)) == [(1, 5)]
    _, window = line.window(EPOCH_NS + 399 * MS)
    assert window.t_end_ns == EPOCH_NS + 300 * MS
    assert window.end_tick == 3
    assert window.video_mask.tolist() == [False] * 7 + [True, True, False]
    assert window.face == ((1, 2, 3, 4), 5)


def test_a_window_closes_its_own_ticks_and_late_faces_count_in_the_next(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    line.push_observation(seen(20 * MS, 1))
    released, window = line.window(EPOCH_NS + 200 * MS)
    assert names(released) == [(0, 1)]
    assert (window.video_mask.sum(), window.final_tick) == (1, 0)
    assert line.push_observation(seen(50 * MS, 2)) == []
    assert names(line.push_observation(seen(150 * MS, 3))) == [(1, 3)]
    assert line.push_observation(seen(160 * MS, 4)) == []
    assert line.counts["late_observation"] == 3
    line.push_observation(seen(250 * MS, 5))
    released, window = line.window(EPOCH_NS + 300 * MS)
    assert names(released) == [(2, 5)]
    assert window.video_mask.tolist() == [False] * 7 + [True, True, True]
    assert window.final_tick == 2


def test_sound_that_has_not_come_is_masked_now_and_there_later(short: Bundle) -> None:
    prompt, tardy = (Timeline(short, epoch_ns=EPOCH_NS, has_video=False) for _ in range(2))
    for line in (prompt, tardy):
        line.push_block(heard(0, 8000))
    prompt.push_block(heard(500 * MS, 8000, 1))
    full = prompt.window(EPOCH_NS + 900 * MS)[1]
    partial = tardy.window(EPOCH_NS + 900 * MS)[1]
    assert full.audio_mask[:10].sum() == 0
    assert full.audio_mask[11:].all()
    assert 48 <= partial.audio_mask.sum() <= 50
    assert partial.voice_weight < full.voice_weight
    tardy.push_block(heard(500 * MS, 8000, 1))
    assert tardy.counts["late_sound"] > 0
    again = tardy.window(EPOCH_NS + 900 * MS)[1]
    assert np.array_equal(again.mel, full.mel)
    assert again.voice_weight == full.voice_weight
    assert np.array_equal(again.voice_baseline, full.voice_baseline)


def test_bounds_follow_what_came_and_what_was_promised(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    assert line.video_bound_ns == line.audio_bound_ns == EPOCH_NS
    line.push_observation(seen(30 * MS, track=None))
    line.push_block(heard(0, 3200))
    assert line.video_bound_ns == EPOCH_NS + 30 * MS
    assert EPOCH_NS + 180 * MS < line.audio_bound_ns <= EPOCH_NS + 200 * MS
    line.advance_audio(EPOCH_NS + 400 * MS)
    assert EPOCH_NS + 380 * MS < line.audio_bound_ns < EPOCH_NS + 400 * MS
    line.advance_video(EPOCH_NS + 10 * MS)
    assert line.video_bound_ns == EPOCH_NS + 30 * MS
    deaf = Timeline(short, epoch_ns=EPOCH_NS, has_audio=False)
    assert deaf.audio_bound_ns == UNBOUNDED_NS
    deaf.clear()
    assert (deaf.audio_bound_ns, deaf.video_bound_ns) == (UNBOUNDED_NS, EPOCH_NS)


def test_another_face_hides_the_ticks_of_the_one_before(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS, has_audio=False)
    for i, track in enumerate([3, 3, 3, 4, 4]):
        line.push_observation(seen((50 + 100 * i) * MS, i, track))
    line.advance_video(UNBOUNDED_NS)
    before = line.window(EPOCH_NS + 300 * MS)[1]
    after = line.window(EPOCH_NS + 500 * MS)[1]
    gone = line.window(EPOCH_NS + 1600 * MS)[1]
    assert (before.track, before.video_mask.sum()) == (3, 3)
    assert (after.track, after.video_mask.tolist()) == (4, [False] * 8 + [True] * 2)
    assert (gone.track, gone.face, gone.video_mask.any()) == (-1, None, False)


def test_time_does_not_go_back_unless_cleared(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    with pytest.raises(ValueError, match="before the stream's epoch"):
        line.window(EPOCH_NS - 1)
    line.push_block(heard(0, 16000))
    first = line.window(EPOCH_NS + 800 * MS)[1]
    assert line.window(EPOCH_NS + 899 * MS)[1].t_end_ns == first.t_end_ns
    with pytest.raises(ValueError, match="after one ending at"):
        line.window(EPOCH_NS + 799 * MS)
    line.clear()
    cleared = line.window(EPOCH_NS + 300 * MS)[1]
    assert not cleared.audio_mask.any()
    assert cleared.voice_weight == first.voice_weight > 0
    assert np.array_equal(cleared.voice_baseline, first.voice_baseline)
    line.clear(epoch_ns=0)
    assert line.window(0)[1].t_end_ns == 0


def test_what_runs_ahead_is_bounded_and_the_newest_stays(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS, has_audio=False)
    released = [
        pair for tick in range(1000) for pair in line.push_observation(seen((50 + 100 * tick) * MS, tick))
    ]
    ring = short.window.ring_ticks
    assert [tick for tick, _ in released] == list(range(ring - short.window.ticks))
    assert line.counts["ahead_observation"] == 999 - len(released) - WAITING_TICKS
    newest, window = line.window(EPOCH_NS + 100_000 * MS)
    assert [tick for tick, _ in newest] == list(range(990, 1000))
    assert window.video_mask.all()
    assert len(released) + len(newest) + line.counts.total() == 1000


def test_sound_far_ahead_is_kept_up_to_a_bound(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS, has_video=False)
    line.push_block(heard(0, 60 * 16000))
    assert line.window(EPOCH_NS + 900 * MS)[1].audio_mask[11:].all()
    line.push_block(heard(60_000 * MS, 40 * 16000, 1))
    assert line.counts["ahead_sound"] > 0
    assert not line.window(EPOCH_NS + 10_000 * MS)[1].audio_mask.any()
    assert line.window(EPOCH_NS + 99_900 * MS)[1].audio_mask.all()
    assert len(line._sound._bin) == MOST_BINS


def test_a_stream_taken_up_late_needs_no_past(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    hour = 3_600_000 * MS
    for i in range(30):
        line.push_observation(seen(hour + 50 * MS + i * 100 * MS, i))
        line.push_block(heard(hour + i * 100 * MS, 1600, i))
    window = line.window(EPOCH_NS + hour + 2900 * MS)[1]
    assert window.video_mask.all()
    assert window.audio_mask.all()
    assert +line.counts == {"skipped_observation": 19}


def test_broken_samples_are_masked(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS, has_video=False)
    block = heard(0, 16000)
    block.samples[8000] = np.nan
    line.push_block(block)
    window = line.window(EPOCH_NS + 900 * MS)[1]
    assert np.isfinite(window.mel).all()
    assert 2 <= line.counts["broken_sound"] <= 3
    assert (~window.audio_mask[11:]).sum() == line.counts["broken_sound"]
    assert np.isfinite(window.voice_baseline).all()


def test_what_came_before_the_epoch_is_counted(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    assert line.push_observation(seen(-1)) == []
    line.push_block(heard(-500 * MS, 16000))
    window = line.window(EPOCH_NS + 400 * MS)[1]
    assert line.counts["early_observation"] == 1
    assert line.counts["early_sound"] >= 49
    assert window.audio_mask[-40:].all()


Item = Observation | Block


def recording(random: Random) -> tuple[list[Observation], list[Block]]:
    """Three seconds of pictures and sound, each in its order, with gaps, losses and changes of face."""
    pictures, t_ns, track = [], 0, 0
    while t_ns < 3000 * MS:
        t_ns += random.randint(5, 120) * MS + random.randint(0, 999)
        what = random.randint(0, 19)
        track += what == 0
        pictures.append(seen(t_ns, len(pictures), None if what in (1, 2) else track))
    blocks, t_ns = [], 0
    while t_ns < 3000 * MS:
        samples = random.choice([160, 441, 1600, 4000])
        t_ns += random.choice([0, 0, 0, 0, 1, -1, 70]) * MS
        blocks.append(heard(max(t_ns, 0), samples, len(blocks), random.choice([0.001, 0.1])))
        t_ns += samples * 62500
    return pictures, blocks


def windows_of(
    line: Timeline, order: Iterator[Item], released: dict[int, int], patience: Iterator[bool]
) -> Iterator[Window]:
    """Push in the given order; ask for a window as soon as it is due, or (`patience`) some time later."""

    def note(pairs: Released) -> None:
        for tick, name in names(pairs):
            assert tick not in released, "a tick was released twice"
            released[tick] = name

    end_ns = EPOCH_NS + 200 * MS
    for item in order:
        if isinstance(item, Observation):
            note(line.push_observation(item))
        else:
            line.push_block(item)
        while min(line.video_bound_ns, line.audio_bound_ns) >= end_ns and not next(patience):
            pairs, window = line.window(end_ns)
            note(pairs)
            yield window
            end_ns += 200 * MS
    note(line.advance_video(UNBOUNDED_NS))
    line.advance_audio(UNBOUNDED_NS)
    while end_ns <= EPOCH_NS + 3000 * MS:
        pairs, window = line.window(end_ns)
        note(pairs)
        yield window
        end_ns += 200 * MS


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_arrival_does_not_change_a_window(short: Bundle, seed: int) -> None:
    random = Random(seed)
    pictures, blocks = recording(random)
    in_time = sorted([*pictures, *blocks], key=lambda item: item.t_ns)
    sides = [iter(pictures), iter(blocks)]
    turns = [0] * len(pictures) + [1] * len(blocks)
    random.shuffle(turns)
    mixed = (next(sides[turn]) for turn in turns)
    once: dict[int, int] = {}
    twice: dict[int, int] = {}
    always = iter(lambda: False, None)
    sometimes = iter(lambda: random.random() < 0.5, None)
    first = list(windows_of(Timeline(short, epoch_ns=EPOCH_NS), iter(in_time), once, always))
    second = list(windows_of(Timeline(short, epoch_ns=EPOCH_NS), mixed, twice, sometimes))
    assert once == twice
    assert len(first) == len(second) == 15
    for a, b in zip(first, second, strict=True):
        assert (a.t_end_ns, a.end_tick, a.final_tick, a.track) == (
            b.t_end_ns,
            b.end_tick,
            b.final_tick,
            b.track,
        )
        assert a.face == b.face
        assert np.array_equal(a.video_mask, b.video_mask)
        assert np.array_equal(a.audio_mask, b.audio_mask)
        assert np.array_equal(a.mel, b.mel)
        assert np.array_equal(a.voice_baseline, b.voice_baseline)
        assert a.voice_weight == b.voice_weight


def test_a_slow_mean_starts_at_the_start_and_forgets_slowly() -> None:
    mean = SlowMean(np.array([1.0], dtype=np.float32), prior_s=2, tau_s=60)
    assert (mean.mean[0], mean.weight) == (1, 0)
    mean.fold(np.full((1, 1), 4, dtype=np.float32), 1)
    assert mean.mean[0] == pytest.approx(1 + 3 / 3)
    assert mean.weight == pytest.approx(1 / 3)
    mean.fold(np.full((600, 1), 4, dtype=np.float32), 1)
    assert mean.mean[0] == pytest.approx(4, abs=1e-3)
    mean.fold(np.full((1, 1), 10, dtype=np.float32), 1)
    assert mean.mean[0] == pytest.approx(4 + 6 / 60, abs=2e-3)
    mean.restart()
    assert (mean.mean[0], mean.weight) == (1, 0)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 99))
def test_how_bins_are_cut_does_not_change_what_is_voice(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mel = rng.uniform(-10, 0, (sum(cuts), 3)).astype(np.float32)
    mask = rng.random(len(mel)) < 0.8
    whole = VoiceGate(5, 1.5).push(mel, mask)
    gate, parts, at = VoiceGate(5, 1.5), [], 0
    for cut in cuts:
        parts.append(gate.push(mel[at : at + cut], mask[at : at + cut]))
        at += cut
    assert np.array_equal(np.concatenate(parts), whole)
    assert not whole[~mask].any()
    levels = np.where(mask, mel.mean(axis=1), -np.inf)
    assert all(
        whole[i] == (mask[i] and levels[i] > levels[max(0, i - 4) : i + 1].max() - 1.5)
        for i in range(len(mel))
    )


def test_a_bundle_that_takes_the_waveform_gets_the_very_samples_in_their_bins(small: Bundle) -> None:
    bundle = replace(small, sound="waveform")
    hop, rate_hz = bundle.mel.hop, bundle.mel.rate_hz
    sound = heard(0, 5 * rate_hz).samples
    windows = []
    for size in (160, 1000):  # samples a block
        line = Timeline(bundle, epoch_ns=EPOCH_NS, has_video=False)
        for start in range(0, len(sound), size):
            t_ns = EPOCH_NS + start * 1_000_000_000 // rate_hz
            line.push_block(Block(t_ns=t_ns, seq=0, samples=sound[start : start + size]))
        windows.append([line.window(EPOCH_NS + end * MS)[1] for end in (2000, 4800)])
    (early, late), (_, again) = windows
    assert np.array_equal(late.waveform, again.waveform)
    assert early.audio_mask.sum() == 199  # the first frame's centre is in the second bin
    assert not early.waveform[np.repeat(~early.audio_mask, hop)].any()
    assert late.audio_mask.all()
    first = int(np.flatnonzero(sound == late.waveform[0])[0])
    assert np.array_equal(late.waveform, sound[first : first + 4 * rate_hz])
    assert abs(first - 0.8 * rate_hz) <= hop / 2  # within half a bin of where it belongs


def test_without_being_asked_for_the_waveform_is_not_kept(short: Bundle) -> None:
    line = Timeline(short, epoch_ns=EPOCH_NS)
    line.push_block(heard(0, 16_000))
    assert line.window(EPOCH_NS + 900 * MS)[1].waveform.size == 0
