"""The container that trains: what it says of a training that ends, and of one that cannot begin.

`kv-cache-rl` is a script here that stands for both commands."""

import os
import signal
import subprocess
import sys
import time

import pytest
from dockerfile import ROOT

PROGRAM = """\
#!/bin/sh
if [ "$1" = serve ]; then
  trap 'echo served; exit 0' TERM INT
  echo "serve $*" >&2
  while :; do sleep 0.05; done
fi
echo "train $*"
{train}
"""


@pytest.fixture
def container(tmp_path):
    """container(what the training does, variables) → a started container."""
    started = []

    def make(train="exit 0", **changes):
        program = tmp_path / "bin" / "kv-cache-rl"
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM.replace("{train}", train))
        program.chmod(0o755)
        env = {"PATH": f"{program.parent}:{os.environ['PATH']}", **changes}
        one = subprocess.Popen(
            [sys.executable, str(ROOT / "deploy" / "training" / "start.py")],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        return one

    yield make
    for one in started:
        one.terminate()
        one.wait(20)


def said(one, until, number=signal.SIGTERM):
    """What it says until a line that holds this; it is ended then. (status, lines)"""
    lines = []
    for line in one.stderr:
        lines.append(line)
        if until in line:
            break
    assert one.poll() is None, "the page stays"
    one.send_signal(number)
    rest = one.communicate(timeout=20)
    return one.returncode, "".join(lines) + rest[1] + rest[0]


def test_the_training_runs_beside_the_server_with_its_options(container, tmp_path):
    one = container("sleep 60", AGENT="ppo", TRAIN_OPTIONS="--task 'hard'", PORT="7")
    log = tmp_path / "runs" / "training" / "ppo.log"
    status, text = said(one, "serve ")
    assert status == 0 and "served" in text
    assert "serve serve --host 0.0.0.0 --port 7 --runs runs" in text
    assert log.read_text() == "train serving train --agent ppo --out runs/training --task hard\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_too(container, tmp_path, number):
    one = container("trap 'echo saved; exit 143' TERM; sleep 60 & wait $!")
    log = tmp_path / "runs" / "training" / "qlearning.log"
    until = time.monotonic() + 10
    while not (log.exists() and "train" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    status, _ = said(one, "serve ", number)
    assert status == 0 and log.read_text().endswith("saved\n")


def test_a_training_that_dies_is_named_with_its_last_words_and_the_remedy(container):
    _, text = said(container("echo; echo 'error: no room; make some'; exit 3"), "mend that")
    assert "error: the training ended with status 3: error: no room; make some" in text
    assert "start again: the training goes on where it was saved. The page stays." in text


def test_a_training_that_was_killed_without_a_word_says_that(container):
    _, text = said(container("kill -9 $$"), "mend that")
    assert "ended with status -9: train serving train" in text


def test_a_training_that_ends_well_says_where_it_wrote(container):
    _, text = said(container(), "has ended")
    assert "the training has ended; runs/training holds what it made" in text


def test_a_folder_that_cannot_be_written_is_named_and_the_page_served(container, tmp_path):
    (tmp_path / "file").touch()
    _, text = said(container(RUNS="file"), "serve ")
    assert "error: file" in text and "nothing trains" in text and "name one with RUNS" in text


def test_options_that_cannot_be_read_are_named(container):
    _, text = said(container(TRAIN_OPTIONS="--task 'hard"), "serve ")
    assert "error: TRAIN_OPTIONS cannot be read (No closing quotation)" in text
