"""The measurement of what a store bears runs, small, and its figures are of what it says."""

from __future__ import annotations

from tests.benchmarks.store_scale import measure, parser, short


def test_a_small_measurement_adds_up():
    given = ["--rows", "64", "--batch", "8", "--held", "20000", "--new", "2000", "--logs", "3000"]
    figures = measure(parser().parse_args(given))
    assert (figures["rows"], figures["antijoin_held"], figures["list_logs"]) == (64, 20000, 3000)
    # Commits of many batches take the driver less time than one batch after another.
    assert figures["driver_rows_per_s"] > figures["alone_rows_per_s"] > 0
    assert 0 < figures["antijoin_read_s"] <= figures["antijoin_2k_vs_20k_s"] < 20
    assert 0 <= figures["antijoin_driver_gib"] < 1 and 0 <= figures["list_3k_logs_gib"] < 1


def test_keys_name_the_sizes_that_were_measured():
    assert [short(count) for count in (1_000_000, 10_000_000, 2000, 1_500, 0)] == ["1m", "10m", "2k", "1500", "0"]
