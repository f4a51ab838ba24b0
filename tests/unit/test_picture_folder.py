"""Pictures without a log: sequences, stills, lists and archives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import DataError
from system.logs.archives import list_members
from system.logs.names import group_names, modality_of
from system.logs.picture_folder import PicturesReader
from system.logs.picture_list import PictureListReader
from system.logs.pixels import Picture, PictureLimits, read_window_pictures
from system.logs.reader import BadLog
from system.records import TIME_ASSUMED

LIMITS = PictureLimits()


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 9, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    return folder


def logs_of(uri: Path, reader=None) -> dict:
    """Every log by the part of its id before the digest."""
    reader = reader or PicturesReader()
    return {
        ref.log_id.rpartition("@")[0] or ref.log_id: (ref, reader.read_log(ref)) for ref in reader.list_logs(str(uri))
    }


def shades(log) -> list[int]:
    return [int(picture.rgb_HWC[0, 0, 0]) for picture in read_window_pictures(log.frames, LIMITS)]


def test_numbered_pictures_are_one_log_at_the_assumed_rate(tmp_path):
    write(tmp_path, *(f"clip_{k:04d}.png" for k in (30, 60, 90, 120, 150, 210)), "map.png")
    logs = logs_of(tmp_path)
    assert set(logs) == {"clip_*.png", "map.png"}
    ref, log = logs["clip_*.png"]
    # Every 30th picture is there and one is missing: its place in time stays free.
    assert [frame.t_ns for frame in log.frames] == [k * 10**8 for k in (0, 1, 2, 3, 4, 6)]
    assert (ref.t_start_ns, ref.t_end_ns) == (0, 6 * 10**8)
    assert TIME_ASSUMED in log.flags and shades(log) == [0, 1, 2, 3, 4, 5]
    still, log = logs["map.png"]
    assert (still.t_start_ns, still.t_end_ns, shades(log)) == (0, 0, [6])


def test_names_that_are_unix_times_are_taken_as_such(tmp_path):
    write(tmp_path, "1700000000000000000.png", "1700000000250000000.png")
    ((_, log),) = logs_of(tmp_path).values()
    assert [frame.t_ns for frame in log.frames] == [1_700_000_000_000_000_000, 1_700_000_000_250_000_000]
    assert TIME_ASSUMED not in log.flags


def test_numbers_with_odd_gaps_are_stills_and_not_a_video():
    sequences, singles = group_names(f"{k:05d}D.png" for k in (1, 4, 5, 17, 30, 31, 60))
    assert not sequences and len(singles) == 7


def test_sequences_of_different_folders_stay_apart():
    sequences, singles = group_names(
        [f"{folder}/x.{k}.png" for folder in ("a1", "a2") for k in range(3)] + ["a3/x.png"]
    )
    assert [sequence.pattern for sequence in sequences] == ["a1/x.*.png", "a2/x.*.png"] and singles == ["a3/x.png"]


def test_same_names_in_two_folders_are_two_logs(tmp_path):
    write(tmp_path / "run1" / "front", "a.png")
    write(tmp_path / "run2" / "front", "a.png")
    ids = {logs_of(tmp_path / run / "front")["a.png"][0].log_id for run in ("run1", "run2")}
    assert len(ids) == 2


def test_a_single_picture_and_hidden_files(tmp_path):
    write(tmp_path, "a.png", "._a.png", ".hidden.jpg")
    assert list(logs_of(tmp_path)) == ["a.png"]
    assert list(logs_of(tmp_path / "a.png")) == ["a.png"]
    assert PicturesReader().recognise(str(write(tmp_path / "empty"))) is None


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("cam/lwir/I0001.jpg", "infrared"),
        ("THERMAL_8_bit/a.png", "infrared"),
        ("front_ir", "infrared"),
        ("/flir/image_raw", "infrared"),
        ("bird/a.png", "rgb"),
        ("airport.jpg", "rgb"),
        ("CAM_FRONT_RIGHT", "rgb"),
        ("firetruck", "rgb"),
    ],
)
def test_infrared_is_told_by_a_word_and_not_by_letters(name, modality):
    assert modality_of(name) == modality


def write_archive(path: Path, mode: str, names: list[str]) -> Path:
    with tarfile.open(path, mode) as archive:
        for k, name in enumerate(names):
            header = tarfile.TarInfo(name)
            header.size = len(png(k))
            archive.addfile(header, io.BytesIO(png(k)))
    return path


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_archives_are_listed_and_read_without_unpacking(tmp_path, name, mode):
    names = [f"front/{k:03d}.png" for k in range(5)] + [f"thermal/{k:03d}.png" for k in range(5)] + ["x.png", "log.txt"]
    path = write_archive(tmp_path / name, mode, names)
    logs = logs_of(path)
    assert set(logs) == {"front/*.png", "thermal/*.png", "x.png"}
    front, thermal = logs["front/*.png"][1], logs["thermal/*.png"][1]
    assert (shades(front), shades(thermal), shades(logs["x.png"][1])) == (list(range(5)), list(range(5, 10)), [10])
    assert (front.frames[0].camera, thermal.frames[0].camera) == ("front", "thermal")
    assert {frame.modality for frame in thermal.frames} == {"infrared"}
    assert list(tmp_path.iterdir()) == [path]
    assert set(logs_of(tmp_path)) == set(logs)


def test_member_names_that_climb_are_only_names(tmp_path):
    path = write_archive(tmp_path / "a.tar", "w", ["../../etc/a.png", "/abs/b.png"])
    assert [shades(log) for _, log in logs_of(path).values()] == [[0], [1]]


@pytest.mark.parametrize("data", [b"", b"not an archive", b"\x1f\x8b\x08\x00damaged", bytes(10_000)])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_damaged_archive_is_a_bad_log(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    (bad,) = PicturesReader().list_logs(str(tmp_path / name))
    assert isinstance(bad, BadLog) and bad.code in ("damaged_archive", "empty_log")


def test_a_gzip_header_that_promises_what_is_not_there_is_a_fault(tmp_path):
    path = write_archive(tmp_path / "a.tar.gz", "w:gz", ["0.png"])
    data = bytearray(path.read_bytes())
    data[3], data[10:12] = 4, (400).to_bytes(2, "little")  # an extra field, of as many bytes
    data[12] = 7  # no block of deflate begins so
    path.write_bytes(data)
    with pytest.raises(DataError) as raised:
        list_members(str(path))
    assert raised.value.code == "damaged_archive"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_flipped_bytes_of_archives_never_raise_anything_but_a_data_error(tmp_path, mode):
    suffix = ".tar.gz" if mode == "w:gz" else ".tar"
    whole = write_archive(tmp_path / f"whole{suffix}", mode, [f"{k}.png" for k in range(4)]).read_bytes()
    rng = np.random.default_rng(0)
    for k in range(200):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, rng.choice([512, len(data)]), 3) % len(data)
        data[where] = rng.integers(0, 256, 3)
        path = tmp_path / f"{k}{suffix}"
        path.write_bytes(data.tobytes()[: rng.integers(10, len(data) + 1)])
        for ref in PicturesReader().list_logs(str(path)):
            if not isinstance(ref, BadLog):
                found = read_window_pictures(PicturesReader().read_log(ref).frames, LIMITS)
                assert all(isinstance(picture, Picture | DataError) for picture in found)


def test_listed_pictures_carry_their_tags_and_sizes(tmp_path):
    root = write(tmp_path / "frames", "fog/a.png", "b.png")
    (root / "frames.csv").write_text(
        "path,dataset,width,height,tags\nframes/fog/a.png,dawn,9,6,fog;car\nb.png,,,,\nb.png,twice,,,\n../c.png,,,,\n"
    )
    reader = PictureListReader()
    assert reader.recognise(str(root))
    refs = list(reader.list_logs(str(root)))
    assert [ref.log_id.split("@")[0] for ref in refs[:2]] == ["frames/fog/a.png", "b.png"]
    assert isinstance(refs[2], BadLog) and refs[2].code == "path_escapes"
    first, second = (reader.read_log(ref) for ref in refs[:2])
    assert (first.truth_tags, first.ref.source, shades(first)) == (("fog", "car"), "dawn", [0])
    assert (first.frames[0].width, first.frames[0].height) == (9, 6)
    assert (second.truth_tags, second.ref.source, shades(second)) == ((), "frames", [1])


def test_a_table_of_any_name_lists_the_same_pictures_as_its_folder(tmp_path):
    root = write(tmp_path / "frames", "a.png")
    for name in ("frames.csv", "held_out.csv"):
        (root / name).write_text("path,dataset,tags\na.png,dawn,fog\n")
    (root / "poses.csv").write_text("t,x,y\n0,1,2\n")
    reader = PictureListReader()
    assert reader.recognise(str(root / "poses.csv")) is None
    (by_folder,) = reader.list_logs(str(root))
    for name in ("frames.csv", "held_out.csv"):
        (ref,) = reader.list_logs(str(root / name))
        assert reader.recognise(ref.uri) and (ref.log_id, ref.source) == (by_folder.log_id, by_folder.source)


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"name\na.png\n", "missing_column"), (b"", "missing_column"), (b"path\n\xff\xfe\n", "damaged_table")],
)
def test_a_damaged_list_is_named(tmp_path, text, code):
    (tmp_path / "frames.csv").write_bytes(text)
    with pytest.raises(DataError) as fault:
        list(PictureListReader().list_logs(str(tmp_path)))
    assert fault.value.code == code


def test_a_size_that_is_no_number_is_named(tmp_path):
    (tmp_path / "frames.csv").write_text("path,width\na.png,wide\n")
    (ref,) = PictureListReader().list_logs(str(tmp_path))
    with pytest.raises(DataError, match="expected width in pixels"):
        PictureListReader().read_log(ref)


def test_every_real_listed_picture_is_read(data_root):
    reader = PictureListReader()
    refs = list(reader.list_logs(str(data_root / "frames")))
    assert len(refs) > 700
    for ref in refs[::25]:
        log = reader.read_log(ref)
        assert isinstance(read_window_pictures(log.frames, LIMITS, 224)[0], Picture) and log.truth_tags
