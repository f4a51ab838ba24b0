"""A job's log as people and as machines read it."""

from __future__ import annotations

import json

import pytest

from system.errors import ConfigError
from system.pipelines.quarantine import QuarantineWriter
from system.report.console import ConsoleProgress, exit_with_code
from system.report.log_lines import FORMAT, LOGGER, bind_log_ids
from system.store.location import StoreLocation
from system.store.tables import open_for_writing
from tests.unit.test_store import MODEL


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_carry_run_and_log_ids(monkeypatch, capsys):
    monkeypatch.setenv(FORMAT, "json")
    with ConsoleProgress() as progress:
        progress.phase("listing logs")
        bind_log_ids(run_id="r1")
        LOGGER.warning("log %s is bad", "l7", extra={"ids": {"log_id": "l7"}})
        progress.phase("mining")
    before, bad, mining = lines(capsys.readouterr().err)
    assert before["message"] == "listing logs" and before["level"] == "info" and "run_id" not in before
    assert (bad["level"], bad["run_id"], bad["log_id"], bad["message"]) == ("warning", "r1", "l7", "log l7 is bad")
    assert mining["run_id"] == "r1" and mining["t"].endswith("Z") and mining["after_s"] >= 0


def test_an_error_is_a_json_line_with_the_run_that_failed(monkeypatch, capsys):
    monkeypatch.setenv(FORMAT, "json")
    with ConsoleProgress():
        bind_log_ids(run_id="r2")
    with pytest.raises(SystemExit), exit_with_code():
        raise ConfigError("no such thing")
    (told,) = lines(capsys.readouterr().err)
    assert (told["level"], told["message"], told["run_id"]) == ("error", "no such thing", "r2")
    assert told["exit_code"] == ConfigError("").exit_code


def test_another_job_in_this_process_does_not_carry_the_last_ones_ids(monkeypatch, capsys):
    monkeypatch.setenv(FORMAT, "json")
    with ConsoleProgress():
        bind_log_ids(run_id="r3")
    with ConsoleProgress() as progress:
        progress.note("hello")
    assert "run_id" not in lines(capsys.readouterr().err)[-1]
    assert not LOGGER.handlers


def test_without_the_variable_lines_are_words(monkeypatch, capsys):
    monkeypatch.delenv(FORMAT, raising=False)
    with ConsoleProgress() as progress:
        LOGGER.warning("log %s is bad", "l7", extra={"ids": {"log_id": "l7"}})
        progress.phase("mining")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "log l7 is bad" and second.endswith(" s  mining")


def test_an_unknown_format_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(FORMAT, "yaml")
    with pytest.raises(SystemExit) as ended, exit_with_code(), ConsoleProgress():
        pass
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: NIGHTMINER_LOGS=yaml: expected text or json\n"


def test_a_fleet_of_broken_logs_does_not_drown_the_log(tmp_path, caplog):
    location = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(location, MODEL)

    def fault(log: int, scene: int) -> dict:
        names = {"scene_id": f"{log:016x}{scene:016x}", "source": "s", "log_id": f"l{log}", "uri": f"u{log}"}
        return names | {"level": "scene", "stage": "read", "code": "empty_file", "message": f"u{log}: is empty"}

    QuarantineWriter(location, "m1", "r1").add(fault(log, scene) for log in range(150) for scene in range(2))
    assert len(caplog.records) == 101
    assert caplog.records[0].ids["log_id"] == "l0" and caplog.records[1].ids["log_id"] == "l1"
    assert "show_run.py" in caplog.messages[-1]
