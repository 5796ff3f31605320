"""The kernels' machine code, loaded without what made it: to import numba takes longer than all else that a start does.

It is kept in a file that bears what it was made from: the kernels' source, numba's version, the processor. Where there is none,
serving/compiler.py makes it, in a process of its own.
"""

import ctypes
import fcntl
import hashlib
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from conf.settings import ROOT

KINDS = {
    "int": "int64", "double": "float64", "bytes": "uint8",
    "int64*": "int64", "float32*": "float32", "float64*": "float64", "uint8*": "uint8", "uint32*": "uint32", "uint64*": "uint64",
}  # fmt: skip
_IN_C: dict[str, Any] = {"int": ctypes.c_int64, "double": ctypes.c_double, "bytes": ctypes.c_char_p}  # bytes: Python's object
_SOURCES = ("compiler.py", "kernels.py", "model_arrays.py", "native.py", "records.py", "text_kernels.py")
_MADE_WITH = ("numba", "llvmlite", "numpy")
FOLDER = "kernels"  # of the state folder
_DIGEST = 32  # bytes
_COMPILED_WITHIN_S = 300.0

_folder: Path | None = None

log = logging.getLogger("clickodds.serving")


class NoMachineCode(RuntimeError):
    """Why the kernels are not to be had."""


class Function(msgspec.Struct, array_like=True):
    """A C function that returns an int64. kinds: of its arguments. never: what its code names of numba's, for errors that it
    cannot raise. code: an object file."""

    kinds: list[str]
    symbol: str
    never: list[str]
    code: bytes


_Functions = dict[str, Function]


def write_functions(file: Path, functions: Mapping[str, Function]) -> None:
    """Into a new file, whole or not at all."""
    data = msgspec.msgpack.encode(functions)
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with part.open("wb") as opened:
            opened.write(hashlib.sha256(data).digest() + data)
            opened.flush()
            os.fsync(opened.fileno())
        part.chmod(0o644)  # whatever the umask is: what others may write is not run
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def keep_in(folder: Path) -> None:
    """Where this process finds machine code, and has it made."""
    global _folder
    _folder = folder


def functions() -> Mapping[str, Callable[..., int]]:
    """The kernels by name. Raises NoMachineCode."""
    if _folder is None:
        raise NoMachineCode("no folder was named for the kernels' machine code")
    found = _functions_in(_folder)
    if isinstance(found, str):
        raise NoMachineCode(found)
    return found


@cache
def _functions_in(folder: Path) -> Mapping[str, Callable[..., int]] | str:
    """Or why there are none: who asks again is not to wait again."""
    try:
        file = file_in(folder)
        _compile(file)
        if (functions := _read(file)) is None:
            log.error("%s: found other bytes than were written; made anew", file)
            file.unlink()
            _compile(file)
            functions = _read(file)
        if functions is None:
            raise NoMachineCode(f"{file}: found other bytes than were written, twice")
        return _loaded(functions)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"the kernels' machine code in {folder}: {error}"


def file_in(folder: Path) -> Path:
    """It bears what the code follows from."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]  # is not there on every machine

    sources = [Path(__file__).with_name(name).read_text() for name in _SOURCES]
    features = llvm.get_host_cpu_features().flatten()
    about = [*sources, *map(version, _MADE_WITH), llvm.get_host_cpu_name(), features]
    return folder / f"kernels-{hashlib.sha256('\0'.join(about).encode()).hexdigest()[:16]}.bin"


def _compile(file: Path) -> None:
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (file.parent / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # of several workers one compiles
        if file.exists():
            return
        log.warning("compiling the kernels into %s: some ten seconds, once", file)
        command = [sys.executable, "-m", "serving.compiler", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_COMPILED_WITHIN_S)
    if done.returncode:
        raise NoMachineCode(done.stderr.strip().rpartition("\n")[2] or f"the compiler ended with {done.returncode}")


def _read(file: Path) -> _Functions | None:
    """None where it is damaged."""
    about = file.stat()
    if about.st_uid not in (0, os.getuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoMachineCode(f"{file}: found a file that others may write; remove it, and the next start makes it anew")
    data = file.read_bytes()
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    return msgspec.msgpack.decode(data[_DIGEST:], type=_Functions)


def _loaded(functions: _Functions) -> Mapping[str, Callable[..., int]]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    give_up = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in {name for function in functions.values() for name in function.never}:
        if llvm.address_of_symbol(name) is None:  # else numba is here, in a test
            llvm.add_symbol(name, give_up)
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for function in functions.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(function.code))
    engine.finalize_object()
    loaded = {}
    for name, function in functions.items():
        arguments = [_IN_C.get(kind, ctypes.c_void_p) for kind in function.kinds]
        made: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, *arguments)(engine.get_function_address(function.symbol))
        made.code = engine  # or it is freed
        loaded[name] = made
    return loaded


def addresses_of(arrays: Sequence[Any]) -> npt.NDArray[np.int64]:
    """(2 * arrays,) where each begins and how many values it has. They must be in a piece, and stay where they are."""
    return np.array([(array.ctypes.data, array.size) for array in arrays], dtype=np.int64).reshape(-1)
