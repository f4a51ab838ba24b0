"""Everything that a night can be told, as one TOML file says it."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.logs import files
from system.pipelines.config import MiningOptions
from system.pipelines.nightly.partitions import check_template
from system.store.maintain import MaintainConfig

_MOST_CONFIG_BYTES = 1 << 20


class LabelConfig(FrozenConfig):
    """Labels of the night's scenes, as jobs/label_scenes.py makes them, into the store's folder labels/.

    rules: TOML file of label rules in place of ours.
    """

    enabled: bool = True
    rules: str | None = None


class BudgetConfig(FrozenConfig):
    """What a night may cost; whichever is used up first ends the mining, and the next night goes on. None: no bound.

    hours: of wall clock since the start. scenes: mined by one start. money: of any currency, counted as the time that
    nodes of the cluster were alive, at `price_per_hour` for each. Hours and money are looked at after every batch, and
    every few seconds while none comes. The batch in hand is finished, and labels, ranking and the report follow, so a
    night takes a little more than this; where none has come for two minutes, it is not waited for, and the report alone
    follows. A night that is started again begins with a whole budget.
    """

    hours: float | None = Field(default=None, gt=0)
    scenes: int | None = Field(default=None, ge=0)
    money: float | None = Field(default=None, gt=0)
    price_per_hour: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _money_has_a_price(self) -> BudgetConfig:
        if self.money is not None and not self.price_per_hour:
            raise ValueError("money needs price_per_hour, of one node")
        return self


class MaintenanceConfig(MaintainConfig):
    """What jobs/maintain_store.py does, every night."""

    enabled: bool = True

    @property
    def steps(self) -> MaintainConfig:
        return MaintainConfig(keep_days=self.keep_days, orphan_days=self.orphan_days, keep_nights=self.keep_nights)


class CompareConfig(FrozenConfig):
    """nights: how many of the last nights, of the same model, tonight is compared with."""

    nights: int = Field(default=7, ge=0, le=365)


class AlertConfig(FrozenConfig):
    """From where on a night is worth a look; None turns an alert off.

    min_scenes: comparisons need so many scenes on each side. quarantine_share: of tonight's scenes and logs.
    embedding_drift: cosine distance between tonight's mean embedding and that of the nights before.
    tag_share_change: of the share of scenes with a tag. risk_change: of the mean risk.
    scenes_share: fewer scenes than this share of what a night had on average.
    missed_nights, left_for_next_night: at least so many.
    """

    min_scenes: int = Field(default=50, ge=1)
    quarantine_share: float | None = Field(default=0.05, ge=0, le=1)
    embedding_drift: float | None = Field(default=0.1, ge=0, le=2)
    tag_share_change: float | None = Field(default=0.25, ge=0, le=1)
    risk_change: float | None = Field(default=0.15, ge=0, le=1)
    scenes_share: float | None = Field(default=0.3, ge=0)
    missed_nights: int | None = Field(default=1, ge=1)
    left_for_next_night: int | None = Field(default=1, ge=1)


class WebhookConfig(FrozenConfig):
    """Where the summary is sent, signed with a secret that is in no configuration file.

    secret_env: name of the environment variable, or secret_file: path of the file, that holds it.
    only_alerts: nothing is sent of a night that ended well and has no alert.
    """

    url: str = Field(pattern=r"^https?://[^\s/]+")
    secret_env: str | None = None
    secret_file: str | None = None
    only_alerts: bool = False
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    attempts: int = Field(default=3, ge=1, le=20)

    @model_validator(mode="after")
    def _one_secret(self) -> WebhookConfig:
        if (self.secret_env is None) == (self.secret_file is None):
            raise ValueError("expected either secret_env or secret_file")
        return self


class NightlyConfig(FrozenConfig):
    """A night.

    logs: folders or URIs; `{date}` in one stands for a day (`{date:%Y/%m/%d}` for other forms than 2026-11-26).
    store: where the tables lie. timezone: of the days. since: the first day that is looked at at all.
    late_days: days before the last complete night that are looked at again, for logs that come late.
    reuploaded: what is done with a log that was mined and has another content now: "mine_again", in place of the old
        scenes, or "tell", which leaves these and says so every night.
    report: folder or URI for night-DATE.html and .json; the store's reports/ where it is None.
    mine: as the options of jobs/mine_fleet.py.
    """

    logs: tuple[str, ...] = Field(min_length=1)
    store: str
    timezone: str = "UTC"
    since: date | None = None
    late_days: int = Field(default=3, ge=0, le=365)
    reuploaded: Literal["mine_again", "tell"] = "mine_again"
    rank: bool = True
    report: str | None = None
    mine: MiningOptions = MiningOptions()
    labels: LabelConfig = LabelConfig()
    budget: BudgetConfig = BudgetConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    compare: CompareConfig = CompareConfig()
    alerts: AlertConfig = AlertConfig()
    webhook: WebhookConfig | None = None

    @field_validator("logs")
    @classmethod
    def _templates_are_known(cls, logs: tuple[str, ...]) -> tuple[str, ...]:
        for template in logs:
            check_template(template)
        return logs

    @field_validator("mine", mode="before")
    @classmethod
    def _windows_follow_each_other(cls, mine: Any) -> Any:
        """As of jobs/mine_fleet.py: without a stride, that of the length."""
        windows = mine.get("windows") if isinstance(mine, dict) else None
        if isinstance(windows, dict) and "length_s" in windows:
            return mine | {"windows": {"stride_s": windows["length_s"], **windows}}
        return mine

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        try:
            _zone(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("expected a time zone that this machine knows, such as UTC or Europe/Berlin") from error
        return timezone

    @property
    def zone(self) -> tzinfo:
        return _zone(self.timezone)


def _zone(name: str) -> tzinfo:
    """UTC also where a slim image has no table of time zones."""
    return UTC if name in ("UTC", "Etc/UTC") else ZoneInfo(name)


def load_nightly(path: str) -> NightlyConfig:
    """Read a night's configuration from a file or URI.

    Raises:
        ConfigError: it is missing, too large, no TOML, or a key or value is wrong: which.
    """
    try:
        raw = files.read_bytes(path, size=_MOST_CONFIG_BYTES + 1)
    except DataError as error:
        raise ConfigError(f"--config {error.message}") from error
    if len(raw) > _MOST_CONFIG_BYTES:
        raise ConfigError(f"--config {path}: expected at most {_MOST_CONFIG_BYTES} bytes")
    try:
        values = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: expected TOML: {error}") from error
    return NightlyConfig.parse(values, path)
