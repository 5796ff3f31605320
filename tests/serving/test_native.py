"""Machine code: made once, by one of several that want it; what is damaged or cannot be had leaves the Booster to answer."""

import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    assert [message for message in caplog.messages if "compiling" in message] == caplog.messages[:1]
    assert len(list((tmp_path / "kernels").glob("kernels-*"))) == 1


def test_damaged_code_is_not_run(tmp_path: Path) -> None:
    functions()
    whole = native._file_in(COMPILED)
    data = bytearray(whole.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / whole.name).write_bytes(data)
    (tmp_path / whole.name).chmod(0o644)
    keep_in(tmp_path)
    with pytest.raises(NoMachineCode, match=f"{whole.name}: found other bytes than were written; remove it"):
        functions()


def test_code_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    functions()
    whole = native._file_in(COMPILED)
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    (tmp_path / whole.name).chmod(0o664)
    keep_in(tmp_path)
    with pytest.raises(NoMachineCode, match="found a file that others may write"):
        functions()


def test_without_machine_code_the_booster_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    keep_in(tmp_path / "file" / "folder")
    scorer = make_scorer(_bundle(_trained(3, 3)), _parts(REQUEST, AD, CROSS), 1)
    assert isinstance(scorer, BoosterScorer)
    assert "trees are not compiled, the Booster answers: the kernels' machine code in" in caplog.messages[-1]
