"""A training that is stopped goes on where it was, and ends with the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from kv_cache_rl.agents import checkpoint
from kv_cache_rl.agents.checkpoint import CheckpointError, check_record, load, save
from kv_cache_rl.agents.qlearning import ARRAYS, Progress, Training, begun, train

TINY = Training(tasks=("easy",), episodes=5, look_every=2, select=1)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_training_that_goes_on_ends_with_the_same_bytes(tmp_path, after):
    whole, curve = train(TINY)

    def until(progress):
        save(tmp_path / "a", TINY, "code", progress)
        if progress.episode == after:
            raise Stopped

    with pytest.raises(Stopped):
        train(TINY, keep=until)
    progress = load(tmp_path / "a", TINY, "code")
    assert progress.episode == after
    table, again = train(TINY, progress=progress)
    assert table.tobytes() == whole.tobytes() and again == curve


def test_what_is_read_back_is_what_was_written(tmp_path):
    progress = begun(TINY)
    progress.table[3], progress.returns, progress.curve = (
        0.1,
        [1 / 3],
        [{"episode": 2, "select": {"easy": 0.5}}],
    )
    save(tmp_path / "a", TINY, "code", progress)
    found = load(tmp_path / "a", TINY, "code")
    for name in Progress.__dataclass_fields__:
        one, other = getattr(progress, name), getattr(found, name)
        assert one.tobytes() == other.tobytes() if name in ARRAYS else one == other
    assert load(tmp_path / "none", TINY, "code") is None


@pytest.mark.parametrize("change", [b"", b"{}\n", "cut", "flip", "digest"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path, change):
    path = tmp_path / "a"
    save(path, TINY, "code", begun(TINY))
    data = bytearray(path.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
    elif change == "digest":
        data[0] ^= 1
    path.write_bytes(
        data[: len(data) // 2] if change == "cut" else change if isinstance(change, bytes) else data
    )
    with pytest.raises(
        CheckpointError, match="is no checkpoint, or was changed or cut off; delete it to begin"
    ):
        load(path, TINY, "code")


def test_another_plan_or_other_code_is_refused(tmp_path):
    path = tmp_path / "a"
    save(path, TINY, "code", begun(TINY))
    other = Training(tasks=("easy",), episodes=6, look_every=2, select=1)
    with pytest.raises(
        CheckpointError, match=r"with other settings \(episodes 5, now 6\); give the same, delete"
    ):
        load(path, other, "code")
    with pytest.raises(CheckpointError, match="was made by other code than this package now has; delete it"):
        load(path, TINY, "newer")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_with_the_command_that_goes_on(tmp_path, name):
    words = ["serving", "train", "--task", "easy", "--episodes", "400", "--out", "made"]
    program = f"import sys\nfrom kv_cache_rl.cli import main\nsys.argv = ['kv-cache-rl', *{words}]\nmain()"
    # A background process of a shell ignores SIGINT; here it must not.
    begin = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=begin
    )
    written = tmp_path / "made" / "qlearning.checkpoint"
    while not written.exists() and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, getattr(signal, name))
    _, err = child.communicate()
    assert child.returncode == 128 + getattr(signal, name), err
    assert err.startswith("interrupted: ") and err.endswith(f"go on with: kv-cache-rl {' '.join(words)}\n")
    assert " of 400 episodes are saved in made; " in err and os.listdir(tmp_path / "made") == [written.name]


def test_the_command_goes_on_and_takes_its_checkpoint_away(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from kv_cache_rl.cli import app

    monkeypatch.chdir(tmp_path)
    command = ["serving", "train", "--task", "easy", "--episodes", "3", "--out"]
    assert CliRunner().invoke(app, [*command, "whole"]).exit_code == 0
    saved = checkpoint.save

    def until(path, plan, code, progress):
        saved(path, plan, code, progress)
        if progress.episode == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", until)
    stopped = CliRunner().invoke(app, [*command, "made"])
    assert stopped.exit_code == 130 and "of 3 episodes are saved in made; go on with: " in stopped.stderr
    monkeypatch.setattr(checkpoint, "save", saved)
    said = CliRunner().invoke(app, [*command, "made"])
    assert said.exit_code == 0 and said.stderr == "going on after episode 2 of 3: made/qlearning.checkpoint\n"
    assert sorted(os.listdir("made")) == ["qlearning.json", "qlearning.npz"]
    for name in ("qlearning.npz",):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert np.load("made/qlearning.npz")["table"].dtype == np.float32


def test_two_trainings_do_not_write_into_one_folder(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from kv_cache_rl.cli import app
    from kv_cache_rl.cli.saved import only_writer

    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    with only_writer(tmp_path / "made", "training"):
        said = CliRunner().invoke(app, ["serving", "train", "--episodes", "1", "--out", "made"])
    assert said.exit_code == 2 and "another training writes to made now; wait until it ends" in said.stderr


def test_a_finished_training_of_other_settings_is_not_written_over(tmp_path):
    record = tmp_path / "qlearning.json"
    check_record(record, TINY)
    record.write_text(json.dumps({"training": asdict(TINY)}))
    check_record(record, TINY)
    with pytest.raises(CheckpointError, match=r"other settings \(episodes 5, now 6\).*another --out"):
        check_record(record, replace(TINY, episodes=6))
    record.write_text("[]")
    with pytest.raises(CheckpointError, match="is no record of a training; delete it"):
        check_record(record, TINY)
