"""How the arrays of a batch lie in one block of memory, and which sizes of batch there are.

A back end on a card copies a batch over in one piece, so its arrays share a block, here and there alike. It
knows no card and no engine. Views and addresses leave it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.types import UInt8

Dtype = np.dtype[Any]

MIB = 1 << 20
ALIGNMENT = 256
"""Bytes; what CUDA's own allocator keeps to, and what TensorRT asks of memory that it is lent."""


@dataclass(frozen=True, slots=True)
class Field:
    """An array of a batch. shape: of one row."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype

    def bytes(self, batch: int) -> int:
        """Of `batch` rows."""
        return batch * int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Layout:
    """Where the arrays of a batch lie in one block of memory, each aligned. size: of the block in bytes."""

    def __init__(self, fields: Sequence[Field], batch: int) -> None:
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._fields, self._batch = fields, batch
        for field in fields:
            self.offsets[field.name] = self.size
            self.size += -(-field.bytes(batch) // ALIGNMENT) * ALIGNMENT

    def views(self, block: UInt8) -> dict[str, NDArray[Any]]:
        """The arrays as views of a block on the host."""
        return {
            field.name: block[at : at + field.bytes(self._batch)]
            .view(field.dtype)
            .reshape(self._batch, *field.shape)
            for field, at in zip(self._fields, self.offsets.values(), strict=True)
        }

    def addresses(self, base: int) -> dict[str, int]:
        """The arrays' addresses where the block begins at `base`."""
        return {name: base + offset for name, offset in self.offsets.items()}


def sizes(largest: int) -> list[int]:
    """The sizes of batch that get a graph: powers of two, and the largest."""
    return [*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest]
