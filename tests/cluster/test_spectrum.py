"""See the spectral gap as users do: a few synthetic pairs on the cluster, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs import analyze_spectrum
from system.store.location import StoreLocation
from system.store.spectra import SPECTRA
from tests.cluster.conftest import Head
from tests.cluster.jobs import run_job

SMALL = ("--height", "112", "--width", "126", "--controls", "shift:14,grey", "--draws", "50", "--examples", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs of coloured rectangles and their inverted luminance; a sixth whose infrared picture is damaged."""
    root = tmp_path_factory.mktemp("pairs")
    generator = np.random.default_rng(0)
    for side in ("visible", "infrared"):
        (root / side).mkdir()
    for n in range(6):
        rgb = np.full((120, 132, 3), 90, np.uint8)
        for _ in range(12):
            y, x = generator.integers(0, 100), generator.integers(0, 110)
            rgb[y : y + 25, x : x + 20] = generator.integers(0, 256, 3)
        Image.fromarray(rgb).save(root / "visible" / f"{n}.png")
        Image.fromarray(255 - rgb.mean(axis=2).astype(np.uint8)).save(root / "infrared" / f"{n}.png")
    (root / "infrared" / "5.png").write_bytes((root / "infrared" / "5.png").read_bytes()[:200])
    return root


def named(corpus: Path) -> str:
    return f"{corpus / 'visible'}::{corpus / 'infrared'}"


def test_a_corpus_becomes_figures_a_table_and_a_page(corpus: Path, tmp_path: Path, head: Head):
    done = run_job(
        "analyze_spectrum", "--pairs", named(corpus), "--out", tmp_path / "o", *SMALL, "--blocks", "3,9", env=head.env
    )
    assert done.code == 0, done.stderr
    figures = done.figures
    assert figures["pairs"] == 5 and figures["blocks"] == [3, 9] and figures["skipped"] == {"truncated_image": 1}
    for key in ("ratio_mse", "ratio_nmse", "ratio_cosine"):
        assert figures[key]["low"] <= figures[key]["value"] <= figures[key]["high"]
    rows = 5 * 2 * 2 * 3
    assert pq.read_metadata(tmp_path / "o" / "spectra.parquet").num_rows == rows
    assert StoreLocation.parse(str(tmp_path / "o")).dataset(SPECTRA).count_rows() == rows
    page = (tmp_path / "o" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 6 and "truncated_image: 1" in page


def test_bad_input_is_one_line(corpus: Path, tmp_path: Path):
    # In this process: none of these gets as far as Ray.
    (tmp_path / "empty").mkdir()
    one = tmp_path / "one"
    for side in ("visible", "infrared"):
        (one / side).mkdir(parents=True)
        (one / side / "0.png").write_bytes((corpus / side / "0.png").read_bytes())
    given = ("--out", tmp_path / "o")
    cases = [
        (("--pairs", tmp_path / "empty"), 3, "empty"),
        (("--pairs", f"{one / 'visible'}::{one / 'infrared'}"), 3, "at least 2"),
        (("--pairs", named(corpus), "--blocks", "3,12"), 2, "0..11"),
        (("--pairs", named(corpus), "--blocks", "last"), 2, "blocks"),
        (("--pairs", named(corpus), "--tower", "resnet"), 2, "unknown backbone"),
        (("--pairs", named(corpus), "--height", "240"), 2, "multiples of the patch"),
        (("--pairs", named(corpus), "--height", "70", "--width", "140"), 2, "at least 8"),
        (("--pairs", named(corpus), "--controls", "rain:3"), 2, "--controls rain:3"),
    ]
    for arguments, code, told in cases:
        done = CliRunner().invoke(analyze_spectrum.app, [str(word) for word in (*arguments, *given)])
        assert done.exit_code == code, done.stderr
        assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr
