"""Claims about the tag taxonomy and the ids of models, neither of which needs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.miner.identity import untrained_model_id
from system.miner.miner_config import SceneMinerConfig
from system.miner.taxonomy import Taxonomy, load_taxonomy

TAG = '[[tags]]\nname = "{name}"\nseen_in = "{seen}"\nprompts = {prompts}\nopposites = ["a road"]\n'


def write(
    path: Path, name: str = "snow", seen: str = "most", prompts: str = '["a snowy road"]', times: int = 1
) -> Path:
    path.write_text(TAG.format(name=name, seen=seen, prompts=prompts) * times, "utf-8")
    return path


def test_the_default_taxonomy_holds_the_twenty_tags_with_several_prompts_each():
    taxonomy = load_taxonomy()
    assert ",".join(taxonomy.names) == (
        "night,dusk,rain,fog,intersection,construction,parking_lot,dense_traffic,pedestrian,many_pedestrians,"
        "pedestrian_crossing,cyclist,motorcycle,large_vehicle,traffic_light,turning,stopped_in_traffic,close_lead,"
        "hard_braking,cut_in"
    )
    assert all(len(tag.prompts) >= 3 and len(tag.opposites) >= 3 for tag in taxonomy.tags)


def test_another_taxonomy_is_a_file(tmp_path: Path):
    assert load_taxonomy(write(tmp_path / "t.toml")).names == ("snow",)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Snow!"}, "name"),
        ({"seen": "few"}, "seen_in"),
        ({"prompts": "[]"}, "prompts"),
        ({"prompts": '[" "]'}, "a prompt is empty"),
        ({"times": 2}, "named twice: snow"),
    ],
)
def test_a_wrong_tag_is_refused_by_name(tmp_path: Path, wrong: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        load_taxonomy(write(tmp_path / "t.toml", **wrong))


def test_missing_broken_and_huge_files_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read"):
        load_taxonomy(tmp_path / "gone.toml")
    (tmp_path / "broken.toml").write_text("[[tags]\n")
    with pytest.raises(ConfigError, match="expected TOML"):
        load_taxonomy(tmp_path / "broken.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="expected at most"):
        load_taxonomy(tmp_path / "huge.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_taxonomy(tmp_path / "binary.toml")


def test_a_model_id_depends_on_tower_config_and_taxonomy_and_on_nothing_else(tmp_path: Path):
    taxonomy, config = load_taxonomy(), SceneMinerConfig()
    same = untrained_model_id("t1", config, taxonomy)
    assert same == untrained_model_id("t1", SceneMinerConfig(), Taxonomy.model_validate(taxonomy.model_dump()))
    other = load_taxonomy(write(tmp_path / "t.toml"))
    ids = {
        same,
        untrained_model_id("t2", config, taxonomy),
        untrained_model_id("t1", SceneMinerConfig(stream_dim=64), taxonomy),
        untrained_model_id("t1", config, other),
    }
    assert len(ids) == 4 and all(len(i) == 32 for i in ids)


def test_what_the_driver_needs_does_not_import_torch():
    modules = "identity, taxonomy, miner_config, hardness, explain, motion_tags"
    code = f"import sys; from system.miner import {modules}; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == 0
