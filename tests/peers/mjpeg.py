"""An HTTP camera for tests: MJPEG as network cameras serve it, on a random port of the loopback.

    with MjpegServer(pictures) as camera:
        camera.url

Runs in a thread of the test; every client is served from the first picture on. As a program it serves
the pictures of a media file for ever and prints its URL: `python tests/peers/mjpeg.py FILE [FPS]`.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

Pictures = Callable[[], Iterable[np.ndarray]]


class MjpegServer:
    """Serves `pictures()` at `fps`; each response ends with them, or hangs silently when `hang`."""

    def __init__(self, pictures: Pictures, *, fps: float = 30.0, hang: bool = False) -> None:
        camera = self
        self._over = threading.Event()
        self.sent_ns: list[int] = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for jpeg in camera._paced(pictures(), fps):
                        camera.sent_ns.append(time.monotonic_ns())
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                    if hang:
                        camera._over.wait()
                except OSError:
                    pass  # the client has left

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/camera.mjpg"

    def _paced(self, pictures: Iterable[np.ndarray], fps: float) -> Iterator[bytes]:
        due = time.monotonic()
        for picture in pictures:
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            due += 1 / fps
            yield cv2.imencode(".jpg", picture)[1].tobytes()

    def __enter__(self) -> "MjpegServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def file_pictures(path: str) -> Iterator[np.ndarray]:
    """The pictures of a media file, over and over, BGR."""
    while True:
        video = cv2.VideoCapture(path)
        while (answer := video.read())[0]:
            yield answer[1]
        video.release()


if __name__ == "__main__":
    served = MjpegServer(lambda: file_pictures(sys.argv[1]), fps=float((*sys.argv[2:], "30")[0]))
    with served:
        print(served.url, flush=True)
        threading.Event().wait()
