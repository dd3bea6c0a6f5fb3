"""What every engine on a card does with rings, slow means and batches, on the stand-ins for cards.

The fidelity tests run on them too; what is an engine's own is in its own file.
"""

import gc
import re
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from opened_engines import STAND_INS, opened
from test_backends import faces, window_at

from engine.backends import choose
from engine.backends.card import CardBackend
from engine.backends.onnx import OnnxBackend
from engine.baseline import SlowMean, SlowSteps
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import plan_folder, read_key, read_plan, write_plan
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block


def on_card(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[CardBackend]:
    """The back end of a parameter's name, over its stand-in."""
    request.getfixturevalue(STAND_INS[request.param])
    found = opened(bundle, request.param)
    assert isinstance(found, CardBackend)
    yield found
    found.close()


@pytest.fixture(params=list(STAND_INS))
def backend(request: pytest.FixtureRequest, small: Bundle) -> Iterator[CardBackend]:
    yield from on_card(request, small)


def test_tracks_over_time_are_those_of_onnx_runtime(backend: CardBackend, small: Bundle) -> None:
    """Several tracks, batches above the largest, windows that overlap, ticks not final, a track that
    changes."""
    reference, shown = OnnxBackend(small), faces(30)
    for end in range(20, 140, 20):
        ticks = [tick for tick in range(end - 20, end) for _ in range(3)]
        batch = [shown[(7 * tick + slot) % 30] for tick, slot in zip(ticks, [0, 1, 2] * 20, strict=True)]
        mask = (np.arange(end - 60, end) >= 0) & (np.arange(60) % 5 != 2)
        windows = [window_at(small, end, mask, final=end - 2)] * 3
        answers = []
        for each in (backend, reference):
            each.observe([0, 1, 2] * 20, ticks, batch)
            answers.append(each.score([2, 0, 1], windows).logits)
            if end == 60:
                each.reset(0)
                each.reset(1, keep_baseline=True)
        assert np.abs(answers[0] - answers[1]).max() < 1e-4


@pytest.mark.parametrize("counts", [[1], [60], [7, 0, 30, 200], [900, 5]])
def test_folding_rows_at_once_gives_the_slow_mean(counts: list[int]) -> None:
    rng = np.random.default_rng(3)
    start = rng.standard_normal(5).astype(np.float32)
    steps, mean = SlowSteps(prior_s=2, tau_s=60), SlowMean(start, prior_s=2, tau_s=60)
    folded = start
    for count in counts:
        rows = rng.standard_normal((count, 5)).astype(np.float32)
        keep, weights = steps.fold(count, 1 / 15)
        folded = (keep * folded + weights @ rows).astype(np.float32)
        mean.fold(rows, 1 / 15)
        assert np.abs(folded - mean.mean).max() < 1e-5
        assert steps.weight == mean.weight


def test_a_track_that_the_plan_has_no_room_for_is_refused(backend: CardBackend) -> None:
    with pytest.raises(BackendError, match=r"keeps 4 tracks: build one for more with .*--max-streams 8"):
        backend.observe([4], [0], faces(1))
    with pytest.raises(BackendError, match="keeps 4 tracks"):
        backend.reset(4)


def test_a_run_with_more_streams_than_tracks_is_refused_and_auto_passes_the_plan_over(
    backend: CardBackend, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options = backend.name, r"--bundle \S+ --precision fp32 --max-streams 8"
    said = rf"5 tracks are wanted, and this plan keeps 4 .*{name} {options}\."
    assert choose(small, name, 4).backend.tracks == 4
    with pytest.raises(BackendError, match=said):
        choose(small, name, 5)
    for other in {"tensorrt", "openvino"} - {name}:
        monkeypatch.setitem(sys.modules, other, None)
    choice = choose(small, "auto", 5)
    assert choice.backend.name == "onnx"
    assert re.search(rf"; not {name}: {said}", choice.reason)


def test_streams_beyond_the_tracks_are_refused_before_the_card_is_asked(
    backend: CardBackend, small: Bundle
) -> None:
    recognition = Recognition(small, backend)
    recognition.warm_up()
    streams = [Stream(recognition) for _ in range(4)]
    with pytest.raises(BackendError, match=r"5 tracks are wanted, and this plan keeps 4 tracks"):
        Stream(recognition)
    streams[1].close()
    assert Stream(recognition).slot == 1


def test_what_is_closed_holds_neither_flow_nor_graphs(backend: CardBackend, small: Bundle) -> None:
    """A graph, or a context of TensorRT, must not outlive the memory that it works in."""
    other = opened(small, backend.name)
    assert isinstance(other, CardBackend)
    parts = [other._encoder, other._window_model]  # type: ignore[attr-defined]
    # Views that nothing but a size of batch holds.
    left = [weakref.ref(view) for part in parts for size in part._sizes for view in size.staged.values()]
    assert left
    gc.disable()
    try:
        other.close()
        assert {each() for each in left} == {None}
    finally:
        gc.enable()


def test_what_an_earlier_batch_left_behind_is_never_read(backend: CardBackend, small: Bundle) -> None:
    """Buffers are laid out anew for each size of batch, so the rows that fill a batch up must be cleared."""
    windows = [window_at(small, 60 + i) for i in range(4)]
    backend.observe([0, 1, 2, 3] * 4, [tick for tick in range(56, 60) for _ in range(4)], faces(16))
    for each in range(4):
        backend.score([each], [windows[each]])
    whole = backend.score(range(4), windows).logits
    for count in (2, 3, 1, 3, 4, 3):
        assert np.abs(backend.score(range(count), windows[:count]).logits - whole[:count]).max() < 1e-4


def test_of_two_faces_at_one_tick_the_later_counts(backend: CardBackend, small: Bundle) -> None:
    shown, mask = faces(3), np.arange(60) == 59
    backend.observe([0, 1, 0], [59, 59, 59], shown)
    both = backend.score([0], [window_at(small, 60, mask)]).logits
    backend.reset(0)
    backend.observe([0], [59], shown[2:])
    assert np.abs(backend.score([0], [window_at(small, 60, mask)]).logits - both).max() < 1e-5


@pytest.fixture(params=list(STAND_INS))
def hearing(request: pytest.FixtureRequest, spoken: Bundle) -> Iterator[CardBackend]:
    yield from on_card(request, spoken)


def test_voices_are_encoded_on_the_card(
    hearing: CardBackend, spoken: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of every size, above the largest too; a stream asks the card alone."""
    host, card = OnnxBackend(spoken).voice, hearing.voice
    assert host is not None
    assert card is not None
    rng = np.random.default_rng(2)
    mel, mask = rng.standard_normal((11, 400, 64)).astype(np.float32) - 8, rng.random((11, 400)) < 0.8
    for count in (1, 3, 4, 11):
        found = card.encode(mel[:count], mask[:count])
        np.testing.assert_allclose(found, host.encode(mel[:count], mask[:count]), atol=1e-5)
    sound = (rng.standard_normal(48_000) * 0.1).astype(np.float32)
    answers = []
    for backend in (OnnxBackend(spoken), hearing):
        stream = Stream(Recognition(spoken, backend), has_video=False)
        stream.add_block(Block(t_ns=0, samples=sound, seq=0))
        answers.append(stream.scores(3 * SECOND_NS).heads["audio"])
        monkeypatch.setattr("engine.backends.base.open_voice_encoder", None)
        monkeypatch.setattr("engine.sound_lane.open_voice_encoder", None)
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_a_plan_of_an_earlier_version_has_no_voice(hearing: CardBackend, spoken: Bundle) -> None:
    engine, folder = hearing.name, plan_folder()
    (file,) = (file for file in folder.glob(f"{spoken.digest}-{engine}-*") if read_key(file) == hearing.key)
    whole = read_plan(file)
    parts = {name: part for name, part in whole.parts.items() if name != "voice"}
    try:
        write_plan(replace(whole, parts=parts), folder)
        with pytest.raises(BackendError, match=r"The plan has no voice: build it anew with python -m engine"):
            choose(spoken, engine)
    finally:
        write_plan(whole, folder)
