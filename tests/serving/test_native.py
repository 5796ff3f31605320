"""Machine code: made once, by one of several that want it; what is damaged or cannot be had leaves the Booster to answer."""

import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving import native
from serving.native import NoMachineCode, functions, keep_in
from serving.scorer import BoosterScorer, make_scorer
from tests.serving.parts import COMPILED
from tests.serving.test_scorer import AD, CROSS, REQUEST, _bundle, _parts, _trained


@pytest.fixture(autouse=True)
def _as_before() -> object:
    yield
    keep_in(COMPILED)


def test_of_two_that_start_one_compiles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def place_of_an_empty_table(_: int) -> int:
        native._functions_in.cache_clear()  # each as a process of its own
        keep_in(tmp_path / "kernels")
        table, words = (ctypes.c_uint32 * 8)(*[0xFFFF_FFFF] * 8), (ctypes.c_uint64 * 8)()
        kernels = functions()
        hashed = kernels["hash_text"](b"{}", 2)
        return kernels["find_place"](b"{}", 2, hashed, 1, ctypes.addressof(table), 8, ctypes.addressof(words), 8)

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as both:
        first, second = both.map(place_of_an_empty_table, range(2))
    assert first == second
    assert 0 <= first < 8
    assert len([message for message in caplog.messages if "compiling" in message]) == 1
    assert len(list((tmp_path / "kernels").glob("kernels-*"))) == 1


def _copied(folder: Path) -> Path:
    """The kernels' file, in another folder."""
    functions()
    whole = native.file_in(COMPILED)
    copy = folder / whole.name
    copy.write_bytes(whole.read_bytes())
    copy.chmod(0o644)
    keep_in(folder)
    return copy


def test_damaged_code_is_not_run_but_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _copied(tmp_path)
    data = bytearray(whole := file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    functions()
    assert file.read_bytes() == whole, "the same source, the same code"
    assert f"{file.name}: found other bytes than were written; made anew" in caplog.text


def test_who_asks_again_does_not_compile_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
    keep_in(tmp_path / "kernels")
    for _ in range(2):
        with pytest.raises(NoMachineCode, match="the compiler ended with 1"):
            functions()
        monkeypatch.undo()


def test_code_that_asks_for_memory_is_refused() -> None:
    compiler = pytest.importorskip("serving.compiler")

    def asks(count):  # type: ignore[no-untyped-def]
        return np.empty(count, np.int64)[0]

    with pytest.raises(TypeError, match=r"NRT_.*, expected memory to be the caller's"):
        compiler._made(asks, ("int",))


def test_code_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    _copied(tmp_path).chmod(0o664)
    with pytest.raises(NoMachineCode, match="found a file that others may write"):
        functions()


def test_without_machine_code_the_booster_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    keep_in(tmp_path / "file" / "folder")
    scorer = make_scorer(_bundle(_trained(3, 3)), _parts(REQUEST, AD, CROSS), 1)
    assert isinstance(scorer, BoosterScorer)
    assert "trees are not compiled, the Booster answers: the kernels' machine code in" in caplog.messages[-1]
