"""The Inductor engine on a real GPU: plans of every precision, replayed graphs, flow there, many tracks.

Compiling a plan takes a minute or more. Plans are kept in the user's cache as always, so a second run is
quick, and so is the first where the shipped bundle's were built side by side before: for each precision
`python -m engine.build --engine inductor --max-streams 64 --precision ...`.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_backends import faces, window_at

from engine.backends import choose
from engine.backends.device_flow import find_flow
from engine.backends.inductor import InductorBackend, open_plan
from engine.backends.onnx import OnnxBackend
from engine.backends.torch_device import TorchDevice
from engine.build import Builder, Progress
from engine.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from engine.errors import BackendError
from engine.plans.store import read_plan
from engine.plans.verify import verify
from engine.probabilities import softmax

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    # Another version of torch may warn of its own internals.
    pytest.mark.filterwarnings("default::UserWarning", "default::FutureWarning"),
]
STREAMS = 64


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    """A GPU; where FAIL_WITHOUT_GPU is 1, none is an error."""
    pytest.importorskip("torch")
    try:
        TorchDevice()
    except BackendError as error:
        (pytest.fail if os.environ.get("FAIL_WITHOUT_GPU") == "1" else pytest.skip)(str(error))


def backend_of(bundle: Bundle, precision: str, *, flow_on_card: bool = True) -> InductorBackend:
    """The back end on a plan, which is built where there is none."""
    builder = Builder(bundle, engine="inductor")
    file = builder.file(precision, STREAMS)
    if not file.exists():
        builder.build(precision, STREAMS, lambda line: None, Progress())
    plan, device = read_plan(file), TorchDevice()
    backend = open_plan(bundle, plan.key, plan.parts, device)
    if flow_on_card:
        assert backend.flow == "flow on the card"
        return backend
    programs = dict(backend._programs)
    backend.close()
    return InductorBackend(bundle, plan.key, programs, device, (None, "flow on the host with OpenCV"))


@pytest.fixture(scope="module")
def fp32(small: Bundle) -> Iterator[InductorBackend]:
    """The small bundle in fp32, its flow on the card."""
    found = backend_of(small, "fp32")
    yield found
    found.close()


@pytest.mark.parametrize(
    ("which", "precision"), [("small", "fp32"), ("live", "fp32"), ("live", "fp16"), ("live", "bf16")]
)
def test_a_plan_holds_what_is_promised(
    which: str, precision: str, small: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parity, batches, masks, absent senses, order, rings over time; `verify` says what each means."""
    if which == "live" and not (DEFAULT_BUNDLE / "manifest.json").is_file():
        pytest.skip("engine/bundles/live is not there yet")
    bundle = small if which == "small" else load_bundle()
    backend = backend_of(bundle, precision)
    try:
        checks = verify(backend, bundle, precision, STREAMS)
    finally:
        backend.close()
    with capsys.disabled():
        for check in checks:
            print(f"\n{which} {precision}: {check.name}: {check.figure}", end="")
    assert [check for check in checks if not check.passed] == []


def tokens_of(backend: InductorBackend, rows: int) -> Any:
    """(rows, D): the first tokens of slot 0."""
    with backend._current():
        return backend._rings[:rows].cpu().numpy()


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_replayed_graphs_give_what_the_program_gives_step_by_step(
    fp32: InductorBackend, small: Bundle, count: int
) -> None:
    """A batch through its graph, and the program alone on the flow that the graph has left on the card."""
    shown = faces(count, seed=count)
    fp32.observe([0] * count, range(count), shown)
    found = tokens_of(fp32, count)
    crop = np.stack([face.crop for face in shown])[:, None].astype(np.float32)
    with fp32._current():
        flow = fp32._flows[:count].cpu().numpy()
    assert np.abs(flow).max() > 1
    np.testing.assert_allclose(found, np.concatenate(fp32.encode(crop, flow), axis=1), atol=1e-5)
    fp32.observe([0] * count, range(count), shown)
    np.testing.assert_array_equal(tokens_of(fp32, count), found)


def test_flow_on_the_card_gives_the_scores_of_opencvs(fp32: InductorBackend, small: Bundle) -> None:
    shown, window = faces(60), window_at(small, 60)
    other = backend_of(small, "fp32", flow_on_card=False)
    answers = []
    for each in (fp32, other):
        each.reset(0)
        each.observe([0] * 60, range(60), shown)
        answers.append(each.score([0], [window]).logits)
    other.close()
    assert np.abs(softmax(answers[0]) - softmax(answers[1])).max() < 1e-2


def test_many_tracks_are_those_of_onnx_runtime(small: Bundle) -> None:
    """All tracks at once, batches above the largest, windows that overlap, tracks that change."""
    backend, reference, shown = backend_of(small, "fp32", flow_on_card=False), OnnxBackend(small), faces(30)
    slots = list(range(STREAMS))
    for end in (10, 20, 40):
        ticks = [tick for tick in range(end - 10, end) for _ in slots]
        batch = [shown[(7 * tick + slot) % 30] for tick, slot in zip(ticks, slots * 10, strict=True)]
        mask = (np.arange(end - 60, end) >= 0) & (np.arange(60) % 5 != 2)
        windows = [window_at(small, end, mask, final=end - 2)] * STREAMS
        answers = []
        for each in (backend, reference):
            each.observe(slots * 10, ticks, batch)
            answers.append(each.score(slots[::-1], windows).logits)
            if end == 20:
                each.reset(3)
                each.reset(5, keep_baseline=True)
        assert np.abs(answers[0] - answers[1]).max() < 1e-4
    backend.close()


def test_small_batches_after_large_ones_read_nothing_that_was_left(
    fp32: InductorBackend, small: Bundle
) -> None:
    windows = [window_at(small, 60 + i) for i in range(5)]
    for slot in range(5):
        fp32.reset(slot)
    fp32.observe([0, 1, 2, 3, 4] * 4, [tick for tick in range(56, 60) for _ in range(5)], faces(20))
    for each in range(5):
        fp32.score([each], [windows[each]])
    whole = fp32.score(range(5), windows).logits
    for count in (2, 3, 1, 5, 4, 3):
        assert np.abs(fp32.score(range(count), windows[:count]).logits - whole[:count]).max() < 1e-4


def test_closing_gives_the_memory_back(fp32: InductorBackend, small: Bundle) -> None:
    device = fp32._device
    before = []
    for _ in range(3):
        backend_of(small, "fp32", flow_on_card=False).close()
        before.append(device.free_bytes())
    assert before[2] >= before[0] - (64 << 20)


def test_the_engine_is_chosen_by_name_and_says_where_it_runs(fp32: InductorBackend, small: Bundle) -> None:
    choice = choose(small, "inductor")
    assert choice.reason.startswith(f"inductor: asked for (fp32, up to {STREAMS} tracks on NVIDIA")
    choice.backend.close()  # type: ignore[attr-defined]


def test_numbas_flow_serves_torchs_stream(small: Bundle) -> None:
    flow, word = find_flow(small.flow, small.crop.size, 4)
    assert flow is not None, word
