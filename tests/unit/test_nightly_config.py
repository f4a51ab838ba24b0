"""What a night can be told: keys, days, and the examples that we ship."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from datetime import UTC, date
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.pipelines.nightly.config import NightlyConfig, load_nightly
from system.pipelines.nightly.partitions import MOST_DAYS, days_to_look_at, fixed_part, missed_nights, partition

ROOT = Path(__file__).parents[2]
DAY = date(2026, 11, 26)
LEAST = 'logs = ["/logs/{date}"]\nstore = "/store"\n'


def parse(tmp_path: Path, more: str, least: str = LEAST) -> NightlyConfig:
    (tmp_path / "nightly.toml").write_text(least + more)
    return load_nightly(str(tmp_path / "nightly.toml"))


def test_two_keys_are_enough_and_every_table_is_typed(tmp_path):
    config = parse(tmp_path, "")
    assert (config.reuploaded, config.late_days, config.labels.enabled, config.webhook) == ("mine_again", 3, True, None)
    more = 'since = 2026-11-01\n[mine]\ntower = "packaged"\nwindows = {length_s = 2.0}\n[budget]\nscenes = 9\n'
    config = parse(tmp_path, more)
    assert config.since == date(2026, 11, 1) and config.budget.scenes == 9
    assert (config.mine.windows.length_s, config.mine.windows.stride_s) == (2.0, 2.0)  # no gaps between windows
    assert config.zone is UTC


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("late_dayz = 1\n", "late_dayz: Extra inputs are not permitted"),
        ("[mine]\nlimit = 3\n", "mine.limit: Extra inputs are not permitted"),
        ('[mine]\ntowr = "packaged"\n', "mine.towr: Extra inputs are not permitted"),
        ("[alerts]\ndrift = 1\n", "alerts.drift: Extra inputs"),
        ("late_days = -1\n", "late_days: Input should be greater than or equal to 0"),
        ('reuploaded = "ignore"\n', "reuploaded: Input should be 'mine_again' or 'tell'"),
        ('timezone = "Mars/Base"\n', "timezone: Value error, expected a time zone"),
        ('since = "yesterday"\n', "since: Input should be a valid date"),
        ("[budget]\nmoney = 5.0\n", "money needs price_per_hour"),
        ('[webhook]\nurl = "https://a.example/x"\n', "expected either secret_env or secret_file"),
        ('[webhook]\nurl = "ftp://a.example"\nsecret_env = "A"\n', "webhook.url: String should match"),
        ("a = [\n", "expected TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, more, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        parse(tmp_path, more)
    assert "nightly.toml" in str(refused.value)


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ("/logs/{day}", "expected no other field"),
        ("/logs/{date:x}", "same place for every day"),
        (" ", "empty text"),
        ("/logs/{date:%Y/%m/%d/%H}", "names an hour, or a part of one; stop at the day"),
        ("/logs/{date}/{date:%M}", "names an hour"),
        ("/logs/{date:%d}", "names one place, /logs/01, for days of several"),
        ("/logs/{date:%m/%d}", "names one place, /logs/01/01, for"),
        ("/logs/{date:%Y/%d}", "names one place, /logs/2001/01, for"),
        ("/logs/{date:%Y/%V}", "names one place, /logs/2001/01, for"),  # 2001-12-31 is in the first ISO week of 2002
        ("/logs/{date:%A}", "names one place, /logs/Monday, for"),
    ],
)
def test_a_template_that_does_not_name_one_day_is_refused(tmp_path, logs, said):
    with pytest.raises(ConfigError, match=said):
        parse(tmp_path, "", f'logs = ["{logs}"]\nstore = "/store"\n')


@pytest.mark.parametrize("form", ["%Y/%m/%d", "%Y%m%d", "%y-%j", "%Y/%m", "%G/%V", "%Y/%m/%d/%A", "%Y"])
def test_a_template_may_name_days_or_spans_of_days(tmp_path, form):
    assert parse(tmp_path, "", f'logs = ["/logs/{{date:{form}}}"]\nstore = "/store"\n').logs


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--config .*none\.toml: expected a file, found none"):
        load_nightly(str(tmp_path / "none.toml"))


def test_a_template_names_the_place_of_a_day():
    assert partition("s3://b/logs/{date}", DAY) == "s3://b/logs/2026-11-26"
    assert partition("s3://b/{date:%Y/%m/%d}/cars", DAY) == "s3://b/2026/11/26/cars"
    assert fixed_part("s3://b/logs/day={date}/x") == "s3://b/logs"
    assert fixed_part("s3://logs-{date}/x") == ""
    assert fixed_part("/logs") == "/logs"


def test_a_night_looks_back_to_the_last_complete_one_and_as_far_as_logs_come_late():
    days = days_to_look_at(DAY, date(2026, 11, 23), None, 2)
    assert (days[0], days[-1], len(days)) == (date(2026, 11, 21), DAY, 6)
    assert days_to_look_at(DAY, date(2026, 11, 23), date(2026, 11, 22), 2)[0] == date(2026, 11, 22)
    assert days_to_look_at(DAY, None, None, 1) == [date(2026, 11, 25), DAY]
    assert days_to_look_at(DAY, None, date(2026, 11, 1), 0)[0] == date(2026, 11, 1)
    # What was left longer ago than any night may look back holds up none.
    assert len(days_to_look_at(DAY, date(2026, 11, 23), None, 2, left_from=date(2020, 1, 1))) == MOST_DAYS


def test_days_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="is after the night"):
        days_to_look_at(DAY, None, date(2027, 1, 1), 0)
    with pytest.raises(ConfigError, match="expected at most 1100"):
        days_to_look_at(DAY, None, date(1970, 1, 1), 0)


def test_nights_between_the_last_and_this_were_missed():
    assert missed_nights(DAY, [date(2026, 11, 20), date(2026, 11, 23)]) == [date(2026, 11, 24), date(2026, 11, 25)]
    assert missed_nights(DAY, [date(2026, 11, 25)]) == missed_nights(DAY, []) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("cluster/kuberay/**/nightly.toml")), ids=lambda p: p.parent.name)
def test_every_example_is_a_valid_configuration(path: Path):
    config = load_nightly(str(path))
    assert config.store and config.logs
    # What is commented out as an example has to be right too.
    text = re.sub(r"^# (\[\w+\]|\w+ = )", r"\1", path.read_text(), flags=re.MULTILINE)
    every = NightlyConfig.parse(tomllib.loads(text), "example")
    assert (every.webhook is not None) == ("webhook" in text) and (every.budget.money is not None) == ("money" in text)


def test_systemd_and_cron_call_the_job_as_it_is():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "cluster/systemd/nightminer-nightly.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert words[1:] == ["jobs/mine_nightly.py", "--config", "/etc/nightminer/nightly.toml"]
    assert (ROOT / words[1]).is_file() and unit["Service"]["KillMode"] == "mixed"
    line = (ROOT / "cluster/cron/nightly.cron").read_text().splitlines()[-1]
    assert re.match(r"30 1 \* \* \* nightminer .*python jobs/mine_nightly\.py --config /etc/nightminer/", line)
