"""A staged Space: its front matter, one Dockerfile that builds from the folder alone, nothing else."""

import pytest
import space
import yaml
from dockerfile import Wrong, copied, faults, stages, steps_of


@pytest.mark.parametrize("training", [False, True], ids=["server", "training"])
def test_a_space_holds_what_its_image_is_made_of(tmp_path, training):
    folder = space.stage(tmp_path / "space", training)
    steps = steps_of(folder / "Dockerfile")
    assert faults(steps) == []
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    brought = {name for names in copied(steps, folder).values() for name in names}
    assert held == brought | {"Dockerfile", ".dockerignore"}
    last = stages(steps)[-1][0].rest
    assert last == ("kv-cache-rl" if training else "python:3.11-slim-bookworm AS kv-cache-rl")


@pytest.mark.parametrize("training", [False, True], ids=["server", "training"])
def test_the_front_matter_is_what_a_docker_space_needs(tmp_path, training):
    text = (space.stage(tmp_path / "space", training) / "README.md").read_text()
    _, front, words = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "docker" and facts["app_port"] == 7860 and facts["license"] == "apache-2.0"
    assert set(facts) >= {"title", "emoji", "colorFrom", "colorTo", "tags"}
    assert len(facts["short_description"]) <= 60 and words.strip().startswith("# kv-cache-rl")


def test_a_folder_is_staged_anew_but_no_other_folder_is_deleted(tmp_path):
    space.stage(tmp_path / "space")
    (tmp_path / "space" / "left").touch()
    assert not (space.stage(tmp_path / "space") / "left").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(Wrong, match="holds something else, which this would delete; give another --out"):
        space.stage(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
