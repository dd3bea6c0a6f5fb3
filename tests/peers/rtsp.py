"""An RTSP camera for tests: a media file as MPEG-TS over RTP inside the RTSP connection (TCP), in real time.

    with RtspServer(path) as camera:
        camera.url

Speaks as much of RFC 2326 as FFmpeg, VLC and GStreamer ask for with interleaved transport. Runs in a thread
of the test. As a program it serves a file over and over: `python tests/peers/rtsp.py FILE`.
"""

import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av

PIECE = 7 * 188
RUN_IN_S = 0.05
"""Between two rounds: sound begins some ms before time 0, and may not go back behind the last round's."""
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"


class RtspServer:
    """Serves the file once to every client, then hangs up (or, `hang`, stays silent); `loop`: for ever."""

    def __init__(self, path: Path, *, hang: bool = False, loop: bool = False) -> None:
        camera = self
        self._path, self._hang, self._loop = path, hang, loop
        self._over = threading.Event()
        self.first_sent_ns: int | None = None

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    while head := self._request():
                        self._answer(head)
                        if head.startswith("PLAY"):
                            camera._play(self)
                            return
                except OSError:
                    pass  # the client has left

            def _request(self) -> str:
                lines = []
                while (line := self.rfile.readline().decode("latin1").strip()) or not lines:
                    if not line:
                        return ""
                    lines.append(line)
                return "\n".join(lines)

            def _answer(self, head: str) -> None:
                sequence = next(line for line in head.split("\n") if line.lower().startswith("cseq"))
                extra, body = "Session: 1\r\n", ""
                if head.startswith("OPTIONS"):
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif head.startswith("DESCRIBE"):
                    body = SDP
                    extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif head.startswith("SETUP"):
                    extra += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                self.wfile.write(f"RTSP/1.0 200 OK\r\n{sequence}\r\n{extra}\r\n{body}".encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"rtsp://127.0.0.1:{self._server.server_address[1]}/camera"

    def _play(self, client: socketserver.StreamRequestHandler) -> None:
        for sequence, piece in enumerate(self._pieces()):
            if self._over.is_set():
                return
            stamp = int(time.monotonic() * 90_000) & 0xFFFFFFFF
            packet = struct.pack(">BBHII", 0x80, 33, sequence & 0xFFFF, stamp, 1) + piece
            client.wfile.write(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
        if self._hang:
            self._over.wait()

    def _pieces(self) -> Iterator[bytes]:
        """The transport stream in pieces that fit a packet, each when it is due."""
        written = _Pipe()
        rounds = iter(int, 1) if self._loop else range(1)
        with av.open(written, "w", format="mpegts", options={"flush_packets": "1"}) as out:
            streams: dict[int, av.stream.Stream] = {}
            begin, shift_s, end_s = time.monotonic(), 0.0, 0.0
            for _ in rounds:
                with av.open(str(self._path)) as source:
                    for stream in source.streams:
                        if stream.index not in streams:
                            streams[stream.index] = out.add_stream_from_template(stream)
                    for packet in source.demux():
                        if packet.dts is None:
                            continue
                        due_s = shift_s + float(packet.dts * packet.time_base)
                        end_s = max(end_s, due_s + float((packet.duration or 0) * packet.time_base))
                        if self._over.wait(max(0.0, begin + due_s - time.monotonic())):
                            return
                        self.first_sent_ns = self.first_sent_ns or time.monotonic_ns()
                        shift = round(shift_s / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = streams[packet.stream.index]
                        out.mux(packet)
                        yield from written.pieces()
                    shift_s = end_s + RUN_IN_S
        yield from written.pieces()

    def __enter__(self) -> "RtspServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


class _Pipe:
    """What FFmpeg writes to, and where the server takes it from."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def pieces(self) -> Iterator[bytes]:
        while self._held:
            yield bytes(self._held[:PIECE])
            del self._held[:PIECE]


if __name__ == "__main__":
    with RtspServer(Path(sys.argv[1]), loop=True) as served:
        print(served.url, flush=True)
        threading.Event().wait()
