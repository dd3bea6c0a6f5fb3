"""Messages to send, and peers of a feed that run as processes of their own. No test itself.

`python feed_peers.py publish COUNT HZ`: binds a free port and prints it; says "starting" until a line comes
in on stdin, then sends COUNT emotion messages, then "ended".
`python feed_peers.py follow ENDPOINT`: prints "ready" when it is connected, and at the end the `seq` of all
emotion messages that it got, as JSON.
"""

import json
import select
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from realtime.feed import Publisher, Subscriber
from realtime.wire import Emotion, Status, decode

CAPTURED = Path(__file__).parent / "captured"


def emotion(**changes: Any) -> Emotion:
    """The captured emotion message, with changes."""
    body = (CAPTURED / "v1_emotion.bin").read_bytes()
    stream = changes.pop("stream", "main")
    return replace(cast(Emotion, decode(b"emotion/main", body)), stream=stream, **changes)


def status(**changes: Any) -> Status:
    """The captured status message, with changes."""
    body = (CAPTURED / "v1_status.bin").read_bytes()
    return replace(cast(Status, decode(b"status/main", body)), **changes)


def publish(count: int, rate_hz: float) -> None:
    with Publisher("tcp://127.0.0.1:*") as feed:
        print(feed.endpoint, flush=True)
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            feed.publish(status(state="starting"))
        sample, begun_ns = emotion(), time.monotonic_ns()
        for seq in range(count):
            due_ns = begun_ns + round(seq * 1e9 / rate_hz)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            feed.publish(replace(sample, seq=seq, t_ns=time.monotonic_ns()))
        feed.publish(status(state="ended"))


def follow(endpoint: str) -> None:
    seqs: list[int] = []
    with Subscriber(endpoint) as feed:
        for message in feed:
            if isinstance(message, Emotion):
                seqs.append(message.seq)
            elif message.state == "starting":
                print("ready", flush=True)
            else:
                break
    print(json.dumps(seqs), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(int(sys.argv[2]), float(sys.argv[3]))
    else:
        follow(sys.argv[2])
