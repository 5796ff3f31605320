"""Settings: files below variables, unknown keys refused, faults named."""

import pytest

from conf.settings import ROOT, SettingsError, load_settings


def test_a_variable_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKODDS_REDIS", "redis.example:7000")
    monkeypatch.setenv("CLICKODDS_TRAIN__SEEDS", "5")
    settings = load_settings()
    assert (settings.redis, settings.train.seeds, settings.train.num_workers) == ("redis.example:7000", 5, 1)


def test_everything_written_lies_below_one_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLICKODDS_STATE", raising=False)
    settings = load_settings()
    assert settings.state == ROOT / ".clickodds"
    assert str(settings.state) in str(settings.warehouse)
    assert str(settings.state) in str(settings.mlflow)


def test_a_wrong_value_is_named_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKODDS_SERVING__PORT", "seventy")
    with pytest.raises(SettingsError, match=r"serving\.port: .*found 'seventy'"):
        load_settings()


def test_an_unknown_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKODDS_TRAIN__DEPHT", "3")
    with pytest.raises(SettingsError, match="depht"):
        load_settings()


def test_an_environment_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKODDS_ENV", "base")  # so that what load_settings sets is undone
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: no such file"):
        load_settings("nowhere")
