"""Children end with us, whatever they do, and a failure is told with its code and the end of its log."""

import os
import sys
import time
from pathlib import Path

import pytest

from demo.children import Children, StepFailed


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path, dict(os.environ), tmp_path / "logs")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_lines_come_back_and_stand_in_the_log(children: Children) -> None:
    seen: list[str] = []
    said = children.run("greet", python("print('one'); print('two')"), on_line=seen.append)
    assert said == seen == ["one", "two"]
    assert children.log("greet").read_text() == "one\ntwo\n"


def test_a_failure_has_the_childs_code_and_the_end_of_its_log(children: Children) -> None:
    with pytest.raises(StepFailed, match=r"(?s)exit code 65.*the very reason") as failed:
        children.run("refuse", python("import sys; print('the very reason', file=sys.stderr); sys.exit(65)"))
    assert failed.value.exit_code == 65


def test_a_child_that_was_killed_is_a_failure_too(children: Children) -> None:
    with pytest.raises(StepFailed) as failed:
        children.run("die", python("import os; os.kill(os.getpid(), 9)"))
    assert failed.value.exit_code == 137


def test_leaving_the_block_ends_the_child_and_its_children(children: Children) -> None:
    parent = "import subprocess as s, time; print(s.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    with children.running("stay", python(parent)) as child:
        sleeper = int(next(children.lines("stay", child)))
        assert alive(sleeper)
    deadline = time.monotonic() + 5
    while alive(sleeper) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(sleeper)
    assert child.poll() is not None


def test_a_child_that_does_not_listen_is_killed(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.children.TERM_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    with children.running("deaf", python(deaf)) as child:
        assert next(children.lines("deaf", child)) == "deaf"
    assert child.returncode == -9
