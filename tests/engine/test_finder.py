"""Which finder is taken and what it finds: the bundle's own, or YuNet named, cached, fetched or refused."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_bundle import write_bundle

from engine.bundle import DEFAULT_BUNDLE, load_bundle
from engine.errors import BundleError, FinderError
from engine.signals import yunet as yunet_module
from engine.signals.finder import MODEL_VARIABLE, load_finder
from engine.signals.yunet import YUNET_FILE, YUNET_SHA256
from realtime.sources.demo import FRAMES_HZ, Performance

SHARED = Path(__file__).parents[2] / ".." / "shared"


@pytest.fixture
def yunet_file():
    path = SHARED / "data" / "yunet" / YUNET_FILE
    if not path.is_file():
        pytest.skip("needs ../shared/data/yunet")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of its own; returns where the model would lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    return tmp_path / "cache" / "de3-live" / YUNET_FILE


class Server:
    """Answers every GET with `body`, or cuts it short, or (body None) says nothing until it is closed."""

    def __init__(self):
        self.body, self.length, self.status, self.asked, self.ended = b"", None, 200, 0, threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked += 1
                if server.body is None:
                    server.ended.wait(30)
                    return
                self.send_response(server.status)
                self.send_header("Content-Length", str(server.length or len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/{YUNET_FILE}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self):
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


def one_line(notice):
    assert "\n" not in notice
    assert notice.endswith(".")
    return notice


def test_the_bundles_own_finder_is_the_default_and_nothing_is_fetched(cache, server):
    for offline in (False, True):
        finder, notice = load_finder(offline=offline, url=server.url)
        assert finder.name == "bundled"
        one_line(notice)
    assert server.asked == 0
    assert not cache.exists()


def test_a_bundle_without_a_finder_borrows_the_packages(cache, tmp_path):
    small = load_bundle(write_bundle(tmp_path / "small"))
    assert small.faces is None
    finder, notice = load_finder(offline=True, bundle=small)
    assert finder.name == "bundled"
    assert "comes with the program" in one_line(notice)
    own, notice = load_finder(offline=True, bundle=load_bundle())
    assert "the bundle's own" in one_line(notice)
    assert own.digest == finder.digest


@pytest.fixture
def carrying(tmp_path):
    """A small bundle that carries the shipped finder."""
    folder = write_bundle(tmp_path / "carrying")
    shipped = json.loads((DEFAULT_BUNDLE / "manifest.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text()) | {"faces": shipped["faces"]}
    for key in ("finder", "aligner"):
        name = shipped["faces"][key]
        shutil.copyfile(DEFAULT_BUNDLE / name, folder / name)
        manifest["files"][name] = shipped["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("key", ["finder", "aligner"])
@pytest.mark.parametrize("harm", ["altered", "missing", "swapped", "no network"])
def test_a_damaged_finder_is_refused_in_one_sentence(carrying, key, harm):
    file = carrying / "manifest.json"
    manifest = json.loads(file.read_text())
    name = manifest["faces"][key]
    assert load_bundle(carrying).faces is not None
    if harm == "altered":
        (carrying / name).write_bytes((carrying / name).read_bytes()[:-1] + b"x")
    elif harm == "missing":
        (carrying / name).unlink()
    elif harm == "swapped":
        name = manifest["faces"][key] = manifest["graphs"]["window_model"]
    else:
        (carrying / name).write_bytes(b"hello")
        manifest["files"][name] = hashlib.sha256(b"hello").hexdigest()
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as caught:
        load_bundle(carrying)
    assert name in one_line(str(caught.value))


def test_a_threshold_that_is_none_is_refused(carrying):
    file = carrying / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["faces"]["find_at"] = 1.5
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="find_at"):
        load_bundle(carrying)


def test_it_finds_the_demos_face_and_its_points(cache):
    finder, demo = load_finder(offline=True)[0], Performance()
    for second in range(0, 14, 2):
        picture = demo.picture(second * FRAMES_HZ)
        small = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)
        (face,) = finder.find(small)
        left, right, nose, *mouth = face.points
        assert left[0] < nose[0] < right[0]
        assert max(left[1], right[1]) < nose[1] < min(corner[1] for corner in mouth)
        x, y, width, height = face.box
        assert ((face.points > (x, y)) & (face.points < (x + width, y + height))).all()
        again = finder.follow(np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)), face)
        assert again.followed
        assert np.abs(again.points - face.points).max() < 0.15 * np.linalg.norm(right - left)


@pytest.mark.parametrize("side", [240, 320, 400, 800])
def test_a_face_that_fills_the_picture_is_found(cache, side):
    finder, picture = load_finder(offline=True)[0], Performance().picture(0)
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    (face,) = finder.find(half)
    x, y, width, height = (2 * value for value in face.box)
    reach = 1.05 * max(width, height)
    left, top = x + (width - reach) / 2, y + (height - reach) / 2
    scale = side / reach
    near = cv2.warpAffine(
        picture, np.array([[scale, 0, -left * scale], [0, scale, -top * scale]]), (side, side)
    )
    (close,) = finder.find(near)
    where = (close.points / scale + (left, top)) / 2
    assert np.abs(where - face.points).max() < 0.15 * np.linalg.norm(face.points[1] - face.points[0])
    assert close.box[3] > 0.7 * side


@pytest.mark.parametrize("light", [0.15, 0.06])
def test_a_face_in_the_dark_is_found_and_followed(cache, light):
    finder = load_finder(offline=True)[0]
    picture = cv2.resize(Performance().picture(0), (320, 240), interpolation=cv2.INTER_AREA)
    (bright,) = finder.find(picture)
    dark = np.asarray(picture * light, np.uint8)
    (face,) = finder.find(dark)
    again = finder.follow(np.asarray(cv2.cvtColor(dark, cv2.COLOR_BGR2GRAY)), face)
    eyes = np.linalg.norm(bright.points[1] - bright.points[0])
    for seen in (face, again):
        assert np.abs(seen.points - bright.points).max() < 0.2 * eyes
    assert finder.find(np.asarray(np.full((240, 320), 9), np.uint8)) == []


def test_where_no_face_is_none_is_found_or_followed(cache):
    finder = load_finder(offline=True)[0]
    generator = np.random.default_rng(2)
    blots = cv2.resize(
        generator.integers(0, 256, (9, 12), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    letters = np.full((240, 320), 200, np.uint8)
    for row in range(6):
        cv2.putText(letters, "no face here", (10, 35 + 38 * row), cv2.FONT_HERSHEY_DUPLEX, 1.2, 30, 2)
    face = finder.find(cv2.resize(Performance().picture(0), (320, 240), interpolation=cv2.INTER_AREA))[0]
    for image in (
        blots,
        letters,
        np.zeros((240, 320), np.uint8),
        generator.integers(0, 256, (240, 320), np.uint8),
    ):
        assert finder.find(image) == []
        assert finder.follow(image, face) is None


def test_yunet_by_name_is_fetched_once_then_taken_from_the_cache(cache, server, yunet_file):
    server.body = yunet_file.read_bytes()
    finder, notice = load_finder("yunet", url=server.url)
    assert finder.name == "YuNet"
    assert "fetched once" in one_line(notice)
    assert cache.read_bytes() == server.body
    assert [file.name for file in cache.parent.iterdir()] == [YUNET_FILE]
    again, notice = load_finder("yunet", url=server.url)
    offline, _ = load_finder("yunet", url=server.url, offline=True)
    assert (again.name, offline.name) == ("YuNet", "YuNet")
    assert "cache" in one_line(notice)
    assert server.asked == 1


def refused(**options):
    with pytest.raises(FinderError) as caught:
        load_finder("yunet", **options)
    return one_line(str(caught.value))


def test_another_file_is_neither_used_nor_kept(cache, server):
    server.body = b"<html>please log in</html>"
    sentence = refused(url=server.url)
    assert "SHA-256" in sentence
    assert "--face-model" in sentence
    assert not cache.exists()


def test_a_damaged_cache_is_replaced_and_never_used(cache, server, yunet_file):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(yunet_file.read_bytes()[:-1] + b"x")
    assert "not in the cache" in refused(url=server.url, offline=True)
    server.body = yunet_file.read_bytes()
    finder, _ = load_finder("yunet", url=server.url)
    assert finder.name == "YuNet"
    assert hashlib.sha256(cache.read_bytes()).hexdigest() == YUNET_SHA256


def test_offline_never_asks(cache, server):
    assert "--offline" in refused(url=server.url, offline=True)
    assert server.asked == 0


@pytest.mark.parametrize("trouble", ["refused", "missing", "cut short", "silent", "endless"])
def test_a_server_in_trouble_is_said_in_one_sentence(cache, server, monkeypatch, trouble):
    monkeypatch.setattr(yunet_module, "CONNECT_S", 0.3)
    url = server.url
    if trouble == "refused":
        url = "http://127.0.0.1:9/nothing"
    elif trouble == "missing":
        server.status = 404
    elif trouble == "cut short":
        server.body, server.length = b"x" * 1000, 2000
    elif trouble == "silent":
        server.body = None
    else:
        server.body = b"x" * (yunet_module.LARGEST_BYTES + 100_000)
    assert "could not be fetched" in refused(url=url)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_still_gives_yunet(cache, server, yunet_file):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where a folder should be")
    server.body = yunet_file.read_bytes()
    finder, notice = load_finder("yunet", url=server.url)
    assert finder.name == "YuNet"
    assert "this run only" in one_line(notice)


def test_a_named_file_is_taken_from_the_flag_or_the_environment(cache, yunet_file, monkeypatch):
    assert load_finder(yunet_file, offline=True)[0].name == "YuNet"
    monkeypatch.setenv(MODEL_VARIABLE, str(yunet_file))
    finder, notice = load_finder(offline=True)
    assert finder.name == "YuNet"
    assert str(yunet_file) in one_line(notice)


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "text", "cut", "other network"])
def test_a_named_file_that_cannot_serve_is_refused_in_one_sentence(cache, tmp_path, yunet_file, kind):
    path = tmp_path / "model.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "other network":
        parser = pytest.importorskip("onnx.parser")
        head = '<ir_version: 8, opset_import: ["" : 17]> '
        body = "g (float[1,3,64,64] x) => (float[1,3,64,64] y) { y = Relu(x) }"
        path.write_bytes(parser.parse_model(head + body).SerializeToString())
    elif kind != "absent":
        contents = {"empty": b"", "text": b"hello", "cut": yunet_file.read_bytes()[:150_000]}
        path.write_bytes(contents[kind])
    with pytest.raises(FinderError) as caught:
        load_finder(path)
    sentence = one_line(str(caught.value))
    assert str(path) in sentence


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 96),
        (3, 65),
        (20, 96),
        (31, 500),
        (32, 96),
        (65, 32),
        (500, 20),
        (1, 900),
        (900, 1),
        (2, 900),
    ],
)
def test_odd_pictures_have_no_face_and_do_no_harm(cache, yunet_file, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for finder in (load_finder(yunet_file)[0], load_finder(offline=True)[0]):
        assert [finder.find(image) for _ in range(3)] == [[]] * 3


def test_a_finder_remembers_nothing_and_serves_many_sizes(yunet_file):
    generator = np.random.default_rng(1)
    finder = load_finder(yunet_file)[0]
    images = [generator.integers(0, 256, (40 + 16 * n, 64, 3), dtype=np.uint8) for n in range(8)]
    assert [len(finder.find(image)) for image in images * 2] == [0] * 16
