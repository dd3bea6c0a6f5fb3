"""The feed over real sockets and processes: who loses what, who never does, and who may not listen at all."""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import zmq
import zmq.auth
from feed_peers import emotion, status

from realtime.feed import (
    NEWEST_MESSAGES,
    PUBLISHER_MESSAGES,
    SUBSCRIBER_MESSAGES,
    ClientKeys,
    FeedError,
    Publisher,
    ServerKeys,
    Subscriber,
)
from realtime.wire import DEFAULT_ENDPOINT, Emotion, Status, WireError, encode

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "feed_peers.py"
ANY = "tcp://127.0.0.1:*"
LONG_S = 20.0
PROBED_S = 2.0
"""TCP looks again, later each time, whether one who had stopped reading has room for more."""


@pytest.fixture
def feed() -> Iterator[Publisher]:
    with Publisher(ANY) as made:
        yield made


def meet(feed: Publisher, *subscribers: Subscriber) -> None:
    """Returns when every subscriber is connected and has nothing left to read."""
    end = time.monotonic() + LONG_S
    for number, subscriber in enumerate(subscribers):
        mark = status(stream=f"meet-{number}")
        while subscriber.receive(0.02) != mark:
            assert time.monotonic() < end, "no connection"
            feed.publish(mark)
    feed.publish(last := status(stream="met"))
    for subscriber in subscribers:
        while subscriber.receive(LONG_S) != last:
            assert time.monotonic() < end, "no connection"


def seqs(subscriber: Subscriber, timeout_s: float = 0.3) -> list[int]:
    """The numbers of all emotion messages until nothing comes for `timeout_s`."""
    found = []
    while (message := subscriber.receive(timeout_s)) is not None:
        if isinstance(message, Emotion):
            found.append(message.seq)
    return found


def start(*words: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(PEERS), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_a_slow_subscriber_reads_what_is_new_and_a_healthy_one_everything() -> None:
    count, rate_hz, slow_hz = 200, 100, 5
    with start("publish", str(count), str(rate_hz)) as publisher:
        assert publisher.stdin is not None
        assert publisher.stdout is not None
        endpoint = publisher.stdout.readline().strip()
        ages_ms: list[float] = []
        read: list[int] = []
        with start("follow", endpoint) as healthy, Subscriber(endpoint, newest=True) as slow:
            assert healthy.stdout is not None
            assert healthy.stdout.readline() == "ready\n"
            assert isinstance(slow.receive(LONG_S), Status)
            publisher.stdin.write("go\n")
            publisher.stdin.flush()
            for message in slow:
                if isinstance(message, Emotion):
                    ages_ms.append((time.monotonic_ns() - message.t_ns) / 1e6)
                    read.append(message.seq)
                    time.sleep(1 / slow_hz)  # the slowness under test
                elif message.state == "ended":
                    break
            *_, last = healthy.stdout.read().splitlines()
            assert json.loads(last) == list(range(count))
    assert 5 <= len(read) <= 2 * slow_hz * count / rate_hz
    assert read == sorted(set(read))
    # A queue would make every message older than the one before, by up to 1.9 s at the end; one read
    # delayed by a busy machine may exceed the limit, the typical one may not.
    assert median(ages_ms) < 100


def publish_in_step(feed: Publisher, healthy: Subscriber, count: int, burst: int = 50) -> None:
    """`count` messages, never more than `burst` ahead of `healthy`, which misses none of them."""
    sample = emotion()
    for first in range(0, count, burst):
        for seq in range(first, first + burst):
            feed.publish(replace(sample, seq=seq))
        for seq in range(first, first + burst):
            message = healthy.receive(LONG_S)
            assert isinstance(message, Emotion)
            assert message.seq == seq


def test_a_subscriber_that_stops_reading_loses_only_its_own(feed: Publisher) -> None:
    count = 4000
    with Subscriber(feed.endpoint) as stalled, Subscriber(feed.endpoint) as healthy:
        meet(feed, stalled, healthy)
        publish_in_step(feed, healthy, count)
        kept = seqs(stalled, PROBED_S)
        assert kept == sorted(set(kept))
        assert PUBLISHER_MESSAGES + SUBSCRIBER_MESSAGES <= len(kept) < count
        feed.publish(emotion(seq=count))
        assert seqs(stalled) == [count]


def test_newest_catches_up_even_after_its_own_queue_was_full(feed: Publisher) -> None:
    count = NEWEST_MESSAGES + 2000
    with Subscriber(feed.endpoint, newest=True) as paused, Subscriber(feed.endpoint) as healthy:
        meet(feed, paused, healthy)
        publish_in_step(feed, healthy, count - count % 50)
        first = paused.receive(LONG_S)
        assert isinstance(first, Emotion)
        assert first.seq >= NEWEST_MESSAGES
        seqs(paused, PROBED_S)  # the publisher's queue was full, and has room again only when nothing comes
        feed.publish(emotion(seq=count))
        assert seqs(paused)[-1:] == [count]


def test_newest_keeps_each_topic(feed: Publisher) -> None:
    with Subscriber(feed.endpoint, newest=True) as newest:
        meet(feed, newest)
        for seq in range(20):
            feed.publish(emotion(seq=seq))
            feed.publish(emotion(seq=seq, stream="door"))
            feed.publish(status(uptime_s=float(seq)))
        end = time.monotonic() + LONG_S
        last: dict[object, float] = {}
        while set(last.values()) != {19} or len(last) < 3:
            message = newest.receive(LONG_S)
            assert message is not None
            assert time.monotonic() < end
            number = message.seq if isinstance(message, Emotion) else message.uptime_s
            key = (type(message), message.stream)
            assert number > last.get(key, -1)
            last[key] = number


def test_topics_choose(feed: Publisher) -> None:
    with Subscriber(feed.endpoint, topics=["emotion/door", "status/"]) as chosen:
        meet(feed, chosen)
        for stream in ("main", "door"):
            feed.publish(emotion(stream=stream))
        assert chosen.receive(LONG_S) == emotion(stream="door")
        assert chosen.receive(0.05) is None


def test_several_endpoints_are_one_feed(feed: Publisher) -> None:
    with Publisher(ANY) as second, Subscriber([feed.endpoint, second.endpoint]) as both:
        meet(feed, both)
        meet(second, both)
        feed.publish(emotion(stream="left"))
        second.publish(emotion(stream="right"))
        names = {message.stream for message in (both.receive(LONG_S), both.receive(LONG_S)) if message}
        assert names == {"left", "right"}


def test_peers_that_come_and_go_cost_the_others_nothing(feed: Publisher) -> None:
    with Subscriber(feed.endpoint) as steady:
        meet(feed, steady)
        for seq in range(40):
            feed.publish(emotion(seq=seq))
            if seq % 10 == 5:
                with Subscriber(feed.endpoint) as guest:
                    assert guest.receive(0.01) is None
        assert seqs(steady) == list(range(40))


@pytest.mark.skipif(os.name == "nt", reason="ipc endpoints need Unix sockets")
def test_a_publisher_that_comes_back_is_found_again(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/feed"
    with Subscriber(endpoint) as subscriber:
        for run in range(2):
            with Publisher(endpoint) as feed:
                meet(feed, subscriber)
                feed.publish(emotion(seq=run))
                assert subscriber.receive(LONG_S) == emotion(seq=run)
            assert list(tmp_path.iterdir()) == []


def test_what_was_published_before_the_end_still_arrives() -> None:
    with Publisher(ANY) as feed, Subscriber(feed.endpoint) as subscriber:
        meet(feed, subscriber)
        feed.publish(status(state="ended"))
        feed.close()
        assert subscriber.receive(LONG_S) == status(state="ended")


def test_async_iteration_takes_turns_with_other_work(feed: Publisher) -> None:
    async def read(count: int) -> list[int]:
        found: list[int] = []
        async for message in subscriber:
            if isinstance(message, Emotion):
                found.append(message.seq)
                if len(found) == count:
                    break
        return found

    async def talk() -> list[int]:
        reader = asyncio.create_task(read(300))
        for seq in range(300):
            feed.publish(emotion(seq=seq))
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader, LONG_S)

    with Subscriber(feed.endpoint) as subscriber:
        meet(feed, subscriber)
        assert asyncio.run(talk()) == list(range(300))


def test_closing_ends_an_async_iteration_and_cancelling_leaves_it_usable(feed: Publisher) -> None:
    async def wait() -> list[object]:
        return [message async for message in subscriber]

    async def scene() -> None:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        feed.publish(emotion())
        assert await asyncio.wait_for(anext(subscriber), LONG_S) == emotion()
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        subscriber.close()
        assert await asyncio.wait_for(waiting, LONG_S) == []

    with Subscriber(feed.endpoint) as subscriber:
        meet(feed, subscriber)
        asyncio.run(scene())
    assert list(subscriber) == []


def test_rubbish_is_an_error_and_the_next_message_is_read() -> None:
    rubbish = [[b"emotion/main"], [b"emotion/main", b"\xc1"], [b"emotion/main", b"\x80", b"more"]]
    with zmq.Context() as context, context.socket(zmq.XPUB) as stranger:
        stranger.linger = 0
        port = stranger.bind_to_random_port("tcp://127.0.0.1")
        with Subscriber(f"tcp://127.0.0.1:{port}", topics=["emotion/"]) as subscriber:
            assert stranger.recv() == b"\x01emotion/"
            for parts in (*rubbish, encode(emotion())):
                stranger.send_multipart(parts)
            for _ in rubbish:
                with pytest.raises(WireError):
                    subscriber.receive(LONG_S)
            assert subscriber.receive(LONG_S) == emotion()


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:*", "tcp://*:5560", "tcp://192.168.0.7:1", "tcp://[::]:*"]
)
def test_nothing_beyond_loopback_without_keys(endpoint: str) -> None:
    with pytest.raises(FeedError, match=r"other machines: .*CURVE"):
        Publisher(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["5560", "tcp://127.0.0.1", "http://127.0.0.1:1", "tcp://127.0.0.1:x", ""]
)
def test_what_is_no_endpoint_is_said_so(endpoint: str) -> None:
    with pytest.raises(FeedError, match="not an endpoint"):
        Publisher(endpoint)
    with pytest.raises(FeedError, match="not an endpoint"):
        Subscriber(endpoint)


@pytest.mark.parametrize("port", [65_536, 99_999])
def test_what_is_no_port_is_said_so(port: int) -> None:
    """ZeroMQ would take 99999 for 34463."""
    for made in (Publisher, Subscriber):
        with pytest.raises(FeedError, match=rf":{port} names no port: they go up to 65535"):
            made(f"tcp://127.0.0.1:{port}")


def test_a_port_in_use_is_one_sentence(feed: Publisher) -> None:
    with pytest.raises(FeedError, match=r"^tcp://127\.0\.0\.1:\d+ is in use.*--bind\.$"):
        Publisher(feed.endpoint)


@pytest.mark.skipif(os.name == "nt", reason="ipc endpoints need Unix sockets")
def test_an_ipc_path_is_taken_from_nobody(tmp_path: Path) -> None:
    notes, link, path = tmp_path / "notes.txt", tmp_path / "link", tmp_path / "feed"
    notes.write_text("important")
    link.symlink_to(notes)
    for taken in (notes, link, tmp_path):
        with pytest.raises(FeedError, match=rf"^{taken} is no socket.*--bind"):
            Publisher(f"ipc://{taken}")
    assert notes.read_text() == "important"
    assert link.is_symlink()
    with Publisher(f"ipc://{path}") as feed, Subscriber(feed.endpoint) as subscriber:
        with pytest.raises(FeedError, match=r"feed is in use.*--bind\.$"):
            Publisher(feed.endpoint)
        meet(feed, subscriber)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.is_socket(), "what a killed run leaves"
    with Publisher(f"ipc://{path}") as feed, Subscriber(feed.endpoint) as subscriber:
        meet(feed, subscriber)


def test_localhost_is_loopback() -> None:
    with Publisher("tcp://localhost:*") as feed:
        assert feed.endpoint.startswith("tcp://127.0.0.1:")


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq was built without CURVE")
def test_with_keys_only_those_on_the_list_may_listen(tmp_path: Path) -> None:
    clients = tmp_path / "clients"
    clients.mkdir()
    server_key, server_secret = zmq.auth.create_certificates(tmp_path, "feed")
    friend_key, friend_secret = zmq.auth.create_certificates(tmp_path, "friend")
    _, stranger_secret = zmq.auth.create_certificates(tmp_path, "stranger")
    keys = ServerKeys(secret=Path(server_secret), clients=clients)
    with pytest.raises(FeedError, match="nobody could listen"):
        Publisher("tcp://0.0.0.0:*", curve=keys)
    (clients / "friend.key").write_bytes(Path(friend_key).read_bytes())
    with Publisher("tcp://0.0.0.0:*", curve=keys) as feed:
        endpoint = feed.endpoint.replace("0.0.0.0", "127.0.0.1")
        known = ClientKeys(secret=Path(friend_secret), server=Path(server_key))
        unknown = ClientKeys(secret=Path(stranger_secret), server=Path(server_key))
        with (
            Subscriber(endpoint, curve=known) as friend,
            Subscriber(endpoint, curve=unknown) as stranger,
            Subscriber(endpoint) as bare,
        ):
            meet(feed, friend)
            for seq in range(20):
                feed.publish(emotion(seq=seq))
            assert seqs(friend) == list(range(20))
            assert stranger.receive(0.1) is None
            assert bare.receive(0.1) is None


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.key"
    broken.write_text("nothing")
    for path in (broken, tmp_path / "absent.key"):
        with pytest.raises(FeedError, match=path.name):
            Publisher(ANY, curve=ServerKeys(secret=path, clients=tmp_path))
        with pytest.raises(FeedError, match=path.name):
            Subscriber(ANY.replace("*", "1"), curve=ClientKeys(secret=path, server=path))


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq was built without CURVE")
@pytest.mark.parametrize("text", ["not a key\n", 'public-key = "cut"\n'])
def test_a_listener_whose_key_is_none_is_named(tmp_path: Path, text: str) -> None:
    """Of a folder with such a file libzmq's guard reads nothing, and would let nobody in."""
    _, secret = map(Path, zmq.auth.create_certificates(tmp_path, "feed"))
    listeners = tmp_path / "listeners"
    listeners.mkdir()
    zmq.auth.create_certificates(listeners, "laptop")
    (listeners / "._laptop.key").write_text("no business of ours")
    keys = ServerKeys(secret=secret, clients=listeners)
    Publisher(ANY, curve=keys).close()
    (listeners / "other.key").write_text(text)
    with pytest.raises(FeedError, match=r"other\.key cannot be used as a CURVE key file: .+\.$"):
        Publisher(ANY, curve=keys)


def test_the_client_in_the_readme_works_as_written(feed: Publisher) -> None:
    text = (ROOT / "realtime" / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert DEFAULT_ENDPOINT in code
    code = code.replace(DEFAULT_ENDPOINT, feed.endpoint)
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        end = time.monotonic() + LONG_S
        while not select.select([client.stdout], [], [], 0.05)[0]:
            assert time.monotonic() < end
            feed.publish(emotion())
        assert client.stdout.readline().startswith("41 happy {'neutral': 0.125")
        client.terminate()
