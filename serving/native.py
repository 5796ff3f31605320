"""What numba compiles for serving, and C functions of it that take addresses.

numba's own calls from Python take every array apart, each time: with twenty of them that costs more than most of what is called.
A C function takes numbers; whoever calls it keeps the arrays where they are.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Leaves are picked by gather instructions where the loops are vectorized, which on common processors is three times slower.
os.environ["NUMBA_LOOP_VECTORIZE"] = "0"

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.cpython.unsafe.numbers import trailing_zeros as _trailing_zeros
from numba.extending import intrinsic

compiled: Any = numba.njit(cache=True, nogil=True)
trailing_zeros: Any = _trailing_zeros
LINE = 64  # bytes of the cache's, which `prefetch` fetches
carray: Any = numba.carray  # type: ignore[attr-defined]
_types: Any = numba.types
_KINDS: dict[str, tuple[Any, Any]] = {
    "int": (_types.int64, ctypes.c_int64),
    "double": (_types.float64, ctypes.c_double),
    "bytes": (_types.CPointer(_types.uint8), ctypes.c_char_p),  # an object of Python's
} | {
    f"{name}*": (_types.CPointer(getattr(_types, name)), ctypes.c_void_p)
    for name in ("int64", "float64", "uint8", "uint32", "uint64")
}


def c_function(*arguments: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function of these kinds of arguments (of _KINDS) that returns an int. It keeps the interpreter's lock."""
    ours, theirs = zip(*(_KINDS[kind] for kind in arguments), strict=True)

    def made(function: Callable[..., Any]) -> Any:
        native: Any = numba.cfunc(_types.int64(*ours), cache=True)(function)
        called: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, *theirs)(native.address)
        called.code = native  # or it is freed
        return called

    return made


def addresses_of(arrays: Sequence[Any]) -> npt.NDArray[np.int64]:
    """(2 * arrays,) where each begins and how many values it has. They must be in a piece, and stay where they are."""
    return np.array([(array.ctypes.data, array.size) for array in arrays], dtype=np.int64).reshape(-1)


@intrinsic
def _pointer(_, address):  # type: ignore[no-untyped-def]
    """An address as a pointer."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return _types.voidptr(address), made


@intrinsic
def _word_at(_, address):  # type: ignore[no-untyped-def]
    """The eight bytes at an address, which need not be a word's."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return _types.uint64(address), made


@intrinsic
def _prefetch(_, address):  # type: ignore[no-untyped-def]
    """Have the cache fetch the line of an address, and go on. Loads that are far apart then wait for memory together."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        place = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        called = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(called, [place, word(0), word(3), word(1)])  # to be read, soon and more than once, as data
        return context.get_dummy_value()

    return _types.none(address), made


pointer: Any = _pointer
prefetch: Any = _prefetch
word_at: Any = _word_at


@compiled
def array_of(addresses, number, kind):  # type: ignore[no-untyped-def]
    """The array at this place of `addresses_of`."""
    return carray(pointer(addresses[2 * number]), (addresses[2 * number + 1],), kind)
