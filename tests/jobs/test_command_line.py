"""The jobs as a person calls them: from any folder, with help, and exit codes that say what happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.environment import environment
from conf.settings import CONF, ROOT, load_settings
from jobs.command import installation, job_parser

JOBS = ["simulate", "ingest", "label", "count", "build_training_set", "train", "tune", "promote", "pipeline", "profile_log"]
JOBS += ["ingest_predictions", "replay_predictions", "explain"]


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    settings = load_settings().model_copy(update={"state": folder / "state"})
    env = {**os.environ, **environment(settings), "CLICKODDS_WAREHOUSE": str(folder / "warehouse")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_help_from_any_folder(tmp_path: Path, job: str) -> None:
    said = call(tmp_path, sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--help")
    assert said.returncode == 0, said.stderr
    assert f"spark-submit jobs/{job}.py" in said.stdout
    assert "--contract" in said.stdout


def test_the_contract_that_is_named_is_the_settings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text((CONF / "contracts" / "demo.yaml").read_text().replace("name: demo", "name: mine"))
    monkeypatch.chdir(tmp_path)
    settings, contract = installation(job_parser("").parse_args(["--contract", "mine.yaml"]))
    assert settings.contract == mine, "what Feast and serving go by"
    assert contract.name == environment(settings)["CLICKODDS_PROJECT"] == "mine"


def test_wrong_usage_is_2_and_a_wrong_contract_65_before_spark_starts(tmp_path: Path) -> None:
    label = str(ROOT / "jobs" / "label.py")
    assert call(tmp_path, sys.executable, label, "--no-such-option").returncode == 2
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((CONF / "contracts" / "demo.yaml").read_text().replace("windows:", "windoes:"))
    said = call(tmp_path, sys.executable, label, "--contract", str(wrong))
    assert said.returncode == 65
    assert 'unknown key; did you mean "windows"?' in said.stderr
    assert "Traceback" not in said.stderr


def test_a_table_that_is_not_there_yet_is_65_and_names_the_job_that_makes_it(tmp_path: Path) -> None:
    said = call(tmp_path, "spark-submit", str(ROOT / "jobs" / "label.py"))
    assert said.returncode == 65, said.stderr
    everything = said.stdout + said.stderr
    assert "expected the one that jobs/ingest.py writes" in everything
    assert "Traceback" not in everything
