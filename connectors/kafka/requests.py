"""Whether a request of a transaction was sent more than once: told by librdkafka's own thread, as it happens.

librdkafka sends a request again by itself when its connection breaks or it has waited too long, and says nothing of it.
The first copy may still be on its way then, and end the next transaction of the same producer epoch, or take back its
offsets. An interceptor tells of each request that was written to a connection as a whole. A call that succeeded had an
answer; if its request was written once, that was the answer to the only copy, and nothing of it can come later.

Counted are EndTxn and TxnOffsetCommit. Records that come a second time are refused by their sequence numbers, and a
partition that is added a second time at worst opens an empty transaction.

The interceptor is machine code that adds to a word; no thread of librdkafka ever waits for Python.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numba as nb
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from connectors.kafka.native import rd

_ir: Any = vars(cgutils)["ir"]
_END_TXN: Final = 26
_TXN_OFFSET_COMMIT: Final = 28
_NAME: Final = b"streamproc"


def _type_add_one(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = _ir.IntType(64)
        counter = builder.inttoptr(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", counter, _ir.Constant(word, 1), "seq_cst")

    return types.int64(types.int64), generate


_add_one: Any = intrinsic(_type_add_one)
_compiled: Any = nb.cfunc(
    # client, socket, broker's name and id, kind and version of the request, its number, bytes, our words
    types.int32(types.int64, types.int32, types.int64, types.int32, types.int16, types.int16, types.int32, types.uint64,
                types.int64),
    cache=True,
)  # fmt: skip


def _sent(_client: int, _socket: int, _name: int, _node: int, kind: int, _version: int, _number: int, _size: int,
          counts: int) -> int:
    if kind == _END_TXN:
        _add_one(counts)
    elif kind == _TXN_OFFSET_COMMIT:
        _add_one(counts + 8)
    return 0


_on_sent: Any = _compiled(_sent)


def _attach(client: int, _settings: int, counts: int, _text: int, _size: int) -> int:
    """Runs inside the call that makes the client, on its thread, before there is a connection."""
    failed: int = rd.interceptor_add_on_request_sent(client, _NAME, _on_sent.address, counts)
    return failed


_on_new: Any = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)(_attach)


class TransactionRequests:
    """Counts the requests of one client's transactions; it must live as long as the client."""

    def __init__(self) -> None:
        self._counts = np.zeros(2, np.int64)
        self._before = self._counts.copy()
        self._calls = 0

    def watch(self, configuration: int) -> None:
        """Attaches it to the client that will be made of this configuration."""
        rd.conf_interceptor_add_on_new(
            configuration, _NAME, ctypes.cast(_on_new, ctypes.c_void_p), self._counts.ctypes.data
        )

    def begin(self) -> None:
        """A transaction begins."""
        self._before[:], self._calls = self._counts, 0

    def offsets_called(self) -> None:
        """The transaction asks for the commit of a group's offsets."""
        self._calls += 1

    @property
    def sent_again(self) -> bool:
        """Whether a copy of a request of this transaction, whose calls all succeeded, may be under way yet."""
        ends, offsets = (self._counts - self._before).tolist()
        return bool(ends > 1 or offsets > self._calls)
