"""Compile the kernels into a file, by numba: `python -m serving.compiler [FILE]`; serving/native.py runs it where there is none.

Without FILE it is that of this installation: what is compiled before a server is rolled out need not be at its first start.

The kernels are C functions that take numbers and addresses; whoever calls them keeps the arrays where they are. They raise
nothing and take no memory of their own, so the code needs nothing of numba's when it runs.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Leaves are picked by gather instructions where the loops are vectorized, which on common processors is three times slower.
os.environ["NUMBA_LOOP_VECTORIZE"] = "0"

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
from llvmlite import ir
from numba.core import cgutils
from numba.cpython.unsafe.numbers import trailing_zeros as _trailing_zeros
from numba.extending import intrinsic

from conf.settings import load_settings
from serving.native import FOLDER, KINDS, Function, file_in, write_functions

LINE = 64  # bytes of the cache's, which `prefetch` fetches
_MEMORY = re.compile(r"alloc|reshape", re.IGNORECASE)  # in the names of what numba calls for it

compiled: Any = numba.njit(error_model="numpy")
trailing_zeros: Any = _trailing_zeros
carray: Any = numba.carray  # type: ignore[attr-defined]
_types: Any = numba.types
to_compile: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}


def c_function(*kinds: str) -> Callable[[Callable[..., Any]], Any]:
    """Marks a function of these kinds of arguments (of native.KINDS) that returns an int. It keeps the interpreter's lock."""

    def marked(function: Callable[..., Any]) -> Any:
        to_compile[function.__name__] = (function, kinds)
        return function

    return marked


def _made(function: Callable[..., Any], kinds: tuple[str, ...]) -> Function:
    """Its machine code."""
    named = [(kind, getattr(_types, KINDS[kind])) for kind in kinds]
    types = [of if kind in ("int", "double") else _types.CPointer(of) for kind, of in named]
    native: Any = numba.cfunc(_types.int64(*types), error_model="numpy")(function)
    module = llvm.parse_assembly(native.inspect_llvm())  # optimized by numba
    outside = [found.name for found in module.functions if found.is_declaration and not found.name.startswith("llvm.")]
    if memory := [name for name in outside if _MEMORY.search(name)]:
        raise TypeError(f"{native.native_name}: found calls of {', '.join(memory)}, expected memory to be the caller's")
    of_this_machine = {"cpu": llvm.get_host_cpu_name(), "features": llvm.get_host_cpu_features().flatten()}
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3, jit=True, **of_this_machine)
    never = [name for name in outside if name.startswith(("numba_", "NRT_"))]
    return Function(list(kinds), native.native_name, never, machine.emit_object(module))


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
def _put_word(_, address, word):  # type: ignore[no-untyped-def]
    """Write eight bytes to an address, which need not be a word's."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        stored = builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return _types.none(address, word), made


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
put_word: Any = _put_word
word_at: Any = _word_at


@compiled
def array_of(addresses, number, kind):  # type: ignore[no-untyped-def]
    """The array at this place of native.addresses_of."""
    return carray(pointer(addresses[2 * number]), (addresses[2 * number + 1],), kind)


@compiled
def rows_of(addresses, number, width, kind):  # type: ignore[no-untyped-def]
    """The same as rows of so many values."""
    return carray(pointer(addresses[2 * number]), (addresses[2 * number + 1] // width, width), kind)


def main() -> int:
    from serving import compiler, kernels, text_kernels  # noqa: F401  # they import `compiler`, which this module is not, but alike

    os.nice(10)  # a server may be answering
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else file_in(load_settings().state / FOLDER)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_functions(file, {name: _made(*marked) for name, marked in compiler.to_compile.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
