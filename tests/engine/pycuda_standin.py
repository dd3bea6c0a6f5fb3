"""A STAND-IN for `pycuda.driver` without a GPU: "device" memory is host memory, and nothing here is CUDA.

It has the names, the order and the names of arguments that the engine uses, and is stricter than a card where
that finds mistakes: work on a stream waits until somebody synchronises, so that buffers touched too early
show; every address must lie inside memory that is allocated; and each call needs a current context.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 256


class Error(Exception):
    """As pycuda's."""


class MemoryError(Error):
    """As pycuda's."""


class LogicError(Error):
    """As pycuda's."""


class _Card:
    """The state of the one card. cards: how many the driver finds. total: bytes of its memory."""

    def __init__(self) -> None:
        self.cards, self.total = 1, 1 << 31
        self.name, self.capability, self.cuda = "Stand-in card", (9, 0), 13000
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.current: list[Context] = []
        self.streams: dict[int, Stream] = {}
        self.launches = 0

    def need_context(self) -> None:
        if not self.current:
            raise LogicError("invalid device context")

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Memory inside one living allocation."""
        for base, block in self.blocks.items():
            if base <= address and address + size <= base + len(block):
                return block[address - base : address - base + size]
        raise LogicError(f"illegal address: {size} bytes at {address:#x}")


card = _Card()


def init() -> None:
    pass


def get_driver_version() -> int:
    return card.cuda


class Device:
    def __init__(self, number: int) -> None:
        if number >= card.cards:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    @staticmethod
    def count() -> int:
        return card.cards

    def name(self) -> str:
        return card.name

    def compute_capability(self) -> tuple[int, int]:
        return card.capability

    def retain_primary_context(self) -> "Context":
        return Context()


class Context:
    def push(self) -> None:
        card.current.append(self)

    @staticmethod
    def pop() -> None:
        card.need_context()
        card.current.pop()


class Stream:
    _next: ClassVar[int] = 0x5000

    def __init__(self, flags: int = 0) -> None:
        card.need_context()
        Stream._next += 16
        self.handle = Stream._next
        self._waiting: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        card.streams[self.handle] = self

    def synchronize(self) -> None:
        card.need_context()
        if self._captured is not None:
            raise LogicError("operation not permitted when stream is capturing")
        while self._waiting:
            self._waiting.pop(0)()

    def _ask(self, work: Callable[[], None]) -> None:
        card.need_context()
        (self._waiting if self._captured is None else self._captured).append(work)


class DeviceAllocation:
    def __init__(self, size: int) -> None:
        space = np.full(size + ALIGNMENT, 0xA5, dtype=np.uint8)  # memory comes full of rubbish
        skip = -space.ctypes.data % ALIGNMENT
        self._address, self._blocks = space.ctypes.data + skip, card.blocks
        self._blocks[self._address] = space[skip : skip + size]
        self._valid = True

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        card.need_context()
        if not self._valid:
            raise LogicError("freed twice")
        self._valid = False
        del self._blocks[self._address]

    def __del__(self) -> None:
        if self._valid:
            del self._blocks[self._address]


def mem_get_info() -> tuple[int, int]:
    card.need_context()
    return card.total - sum(len(block) for block in card.blocks.values()), card.total


def mem_alloc(size: int) -> DeviceAllocation:
    if mem_get_info()[0] < size:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    card.need_context()
    return np.empty(shape, dtype, order="C")


def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
    stream._ask(lambda: card.view(dest, size).fill(data))


def memcpy_htod_async(dest: int, src: NDArray[Any], stream: Stream) -> None:
    data = _bytes(src)
    target = card.view(dest, len(data))
    stream._ask(lambda: np.copyto(target, data))


def memcpy_dtoh_async(dest: NDArray[Any], src: int, stream: Stream) -> None:
    data = _bytes(dest)
    source = card.view(src, len(data))
    stream._ask(lambda: np.copyto(data, source))


def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
    source, target = card.view(src, size), card.view(dest, size)
    stream._ask(lambda: np.copyto(target, source))


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    if not array.flags.c_contiguous:
        raise LogicError("the array is not contiguous")
    return array.reshape(-1).view(np.uint8)
