"""This installation's settings: base.yaml < <env>.yaml < CLICKODDS_* variables."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from conf.durations import Duration
from conf.errors import ClickoddsError

CONF = Path(__file__).resolve().parent
ROOT = CONF.parent


class SettingsError(ClickoddsError):
    """The settings are wrong."""

    exit_code = 2


class TreePreset(BaseModel):
    """Parameters of boosted trees, by XGBoost's meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Annotated[int, Field(ge=1, le=12)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    l2: Annotated[float, Field(ge=0)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    colsample: Annotated[float, Field(gt=0, le=1)]
    max_bins: Annotated[int, Field(ge=2)]


class Train(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    seeds: Annotated[int, Field(ge=1, le=16)]
    max_rounds: Annotated[int, Field(ge=1)]
    early_stopping_rounds: Annotated[int, Field(ge=1)]
    selection_rows: Annotated[int, Field(ge=1)]
    presets: Annotated[dict[str, TreePreset], Field(min_length=1)]
    ridge_strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    masked: Annotated[float, Field(ge=0, le=0.02)]
    prior_impressions: Annotated[float, Field(gt=0)]
    rare_below: Annotated[int, Field(ge=1)]
    baseline_rows: Annotated[int, Field(ge=0)]


class Gate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1)]]
    slice_clicks: Annotated[int, Field(ge=1)]
    slice_worse: Annotated[float, Field(gt=0)]
    replayed: Annotated[int, Field(ge=1, le=100_000)]


KeyHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ServedLogSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(ge=0, le=1)]
    max_waiting: Annotated[int, Field(ge=1)]
    max_mb: Annotated[int, Field(ge=1)]
    every: Duration


class Serving(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    max_feature_age: Duration
    redis_deadline_ms: Annotated[float, Field(gt=0)]
    residents: Annotated[int, Field(ge=2)]
    reconcile_every: Duration
    max_body_kb: Annotated[int, Field(ge=1)]
    max_head_kb: Annotated[int, Field(ge=1)]
    max_connections: Annotated[int, Field(ge=1)]
    request_timeout: Duration
    keep_alive: Duration
    in_flight: Annotated[int, Field(ge=1)]
    queue_age_ms: Annotated[float, Field(gt=0)]
    workers: Annotated[int, Field(ge=1, le=256)]
    drain: Duration
    reload_every: Duration
    keys: tuple[KeyHash, ...]
    explain_keys: tuple[KeyHash, ...]
    log: ServedLogSettings
    log_format: Literal["text", "json"]


class Settings(BaseSettings):
    """Frozen; an unknown key is refused. Made by `load_settings`, never at import."""

    model_config = SettingsConfigDict(env_prefix="CLICKODDS_", env_nested_delimiter="__", frozen=True, extra="forbid")

    env: str = "base"
    state: Path
    contract: Path
    warehouse: str | None = None
    redis: str
    mlflow: str | None = None
    id_key: SecretStr | None = None  # hex; only ever from the environment, else a file in `state` (conf/personal.py)
    train: Train
    gate: Gate
    serving: Serving

    @model_validator(mode="after")
    def _from_root(self) -> Self:
        for name in ("state", "contract"):
            path = getattr(self, name)
            object.__setattr__(self, name, path if path.is_absolute() else ROOT / path)
        if self.warehouse is None:
            object.__setattr__(self, "warehouse", str(self.state / "warehouse"))
        if self.mlflow is None:
            object.__setattr__(self, "mlflow", f"sqlite:///{self.state / 'mlflow.db'}")
        return self

    def bundles(self, contract_name: str) -> Path:
        """Where the bundles that may serve a contract are published."""
        return self.state / "bundles" / contract_name

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        env = os.environ.get("CLICKODDS_ENV", "base")
        files = [CONF / "base.yaml"] + ([CONF / f"{env}.yaml"] if env != "base" else [])
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=files, deep_merge=True)


def load_settings(env: str | None = None) -> Settings:
    """Settings of `env` (default CLICKODDS_ENV, else base.yaml alone). Raises SettingsError."""
    if env is not None:
        os.environ["CLICKODDS_ENV"] = env  # so that worker and child processes read the same files
    name = os.environ.get("CLICKODDS_ENV", "base")
    if name != "base" and not (CONF / f"{name}.yaml").is_file():
        raise SettingsError(f"{CONF / name}.yaml: no such file, expected the settings of environment {name!r}")
    try:
        return Settings()  # type: ignore[call-arg]  # its values come from the files
    except ValidationError as error:
        faults = [f"settings: {'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise SettingsError("\n".join(faults)) from None
