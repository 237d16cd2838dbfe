"""The Dockerfiles as a reviewer reads them, and what their context holds."""

import re

import pytest
from container import Machine, carry_out
from dockerfile import ROOT, SERVER, TRAINING, Step, Wrong, copied, faults, ignored, read, sent, steps_of

IMAGES = {"server": SERVER, "training": TRAINING}


@pytest.mark.parametrize("image", IMAGES)
def test_no_dockerfile_has_a_fault(image):
    assert faults(steps_of(*IMAGES[image])) == []


def test_the_context_holds_the_package_and_nothing_else():
    found = {name for names in copied(steps_of(*TRAINING)).values() for name in names}
    assert {"kv_cache_rl/cli/serve.py", "kv_cache_rl/web/index.html", "scenarios/eval/hard.jsonl"} <= found
    tops = {name.split("/")[0] for name in found}
    assert tops == {"pyproject.toml", "README.md", "LICENSE", "scenarios", "kv_cache_rl", "deploy"}
    assert not [name for name in found if re.search(r"__pycache__|\.pyc$|\.env|\.git|^tests/", name)]


@pytest.mark.parametrize(
    ("path", "is_sent"),
    [
        ("kv_cache_rl/jit.py", True),
        ("kv_cache_rl/sim/serving/weights/ppo.bin", True),
        ("kv_cache_rl/__pycache__/jit.cpython-311.pyc", False),
        ("kv_cache_rl/sim/__pycache__/x", False),
        ("deploy/training/start.py", True),
        ("deploy/training/Dockerfile", False),
        (".git/config", False),
        ("runs/a/results.jsonl", False),
        (".venv/bin/python", False),
    ],
)
def test_what_is_not_named_is_not_sent(path, is_sent):
    assert sent(path, ignored(ROOT)) == is_sent


GOOD = """\
FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml ./
RUN pip install -r requirements.txt
COPY kv_cache_rl kv_cache_rl
USER 1000
HEALTHCHECK CMD ["true"]
CMD ["serve"]
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("python:3.11-slim-bookworm", "python:latest"), "names no version"),
        (("python:3.11-slim-bookworm", "python"), "names no version"),
        (("USER 1000", "USER root"), "runs as root"),
        (("USER 1000\n", ""), "runs as root"),
        (("USER 1000", "USER user"), "give the number"),
        (('CMD ["serve"]', "CMD serve"), "a shell would stand"),
        (('HEALTHCHECK CMD ["true"]\n', ""), "no HEALTHCHECK"),
        (("ENV PIP_NO_CACHE_DIR=1\n", ""), "pip's cache stays"),
        (("WORKDIR /app", "WORKDIR app"), "no whole path"),
        (("COPY pyproject.toml ./", "COPY . ./"), "everything is copied"),
        (("COPY pyproject.toml ./", "COPY kv_cache_rl ./"), "before the dependencies"),
        (("USER 1000", "RUN apt-get update && apt-get install curl\nUSER 1000"), "lists of packages"),
    ],
)
def test_a_fault_is_found(change, fault):
    assert faults(list(read(GOOD))) == []
    found = faults(list(read(GOOD.replace(*change))))
    assert any(fault in one for one in found), found


def test_lines_that_go_on_are_one_step_and_comments_are_none():
    (step,) = read("# a\nRUN one \\\n# between\n  && two\n\n")
    assert (step.line, step.word, step.rest) == (2, "RUN", "one   && two")


@pytest.mark.parametrize("text", ["ONBUILD RUN true", "RUN true \\"])
def test_what_cannot_be_carried_out_is_refused_with_its_line(text):
    with pytest.raises(Wrong, match="line 1"):
        list(read(text))


def test_a_copy_that_brings_nothing_is_refused():
    with pytest.raises(Wrong, match="tests brings no file"):
        copied([Step(1, "COPY", "tests ./")])


def test_paths_of_the_image_lie_in_the_bare_folder_and_others_do_not(tmp_path):
    machine = Machine(tmp_path, tmp_path / "python", names=("home", "opt"))
    root = machine.root
    assert machine.place("/opt/venv/bin/pip install") == f"{root}/opt/venv/bin/pip install"
    assert machine.place("A=/home/user:/usr/bin") == f"A={root}/home/user:/usr/bin"
    same = "http://127.0.0.1/health x/opt /optional $HOME/opt"
    assert machine.place(same) == same
    carry_out(machine, Step(1, "ENV", "P=/opt/bin:$P Q=${P}"), {}, tmp_path)
    assert machine.env == {"P": f"{root}/opt/bin:", "Q": f"{root}/opt/bin:"}


def test_the_image_is_the_same_everywhere():
    steps = steps_of(*SERVER)
    (port,) = [step.rest for step in steps if step.word == "EXPOSE"]
    (user,) = [step.rest for step in steps if step.word == "USER"]
    command = [step.command() for step in steps if step.word == "CMD"][-1]
    assert command[:2] == ["kv-cache-rl", "serve"] and command[command.index("--port") + 1] == port
    assert f"--uid {user}" in next(step.rest for step in steps if "useradd" in step.rest)
    for front in (ROOT / "deploy" / "spaces").iterdir():
        assert f"\napp_port: {port}\n" in front.read_text(encoding="utf-8")
