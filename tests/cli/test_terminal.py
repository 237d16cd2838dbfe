"""What is printed is what was given, and a command that ends early says so with its exit code."""

import errno
import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click_tree import commands

from kv_cache_rl.cli import app
from kv_cache_rl.cli.failures import BadInput, as_sentence
from kv_cache_rl.cli.hierarchy.sweeps import best_table
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.terminal import Bar, console, print_json, styled
from kv_cache_rl.files import part_of

LAB = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 16}
REQUESTS = [{"time_s": at, "input_tokens": 32, "output_tokens": 1, "runs": [[0, 2]]} for at in range(3)]
NAMES = ("run [/a] of [gpu]", "tr[bold].jsonl", ":smile:", "[/red]")


def program(code: str, **more) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": paths}, **more
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_brackets_or_colons_is_printed_as_it_is(capsys, name):
    metrics = {"avg_latency_ms": 1.0, "overall_hit_rate": 0.5}
    row = {"scenario": name, "workload": name, "policy": name, "metrics": metrics}
    row |= {"bound_hit_rate": None, "void": []}
    console().print(best_table([row]))
    console().print(styled(("failed", "red"), f" {name}"))
    said = capsys.readouterr().out
    assert said.count(name) == 4 and f"failed {name}" in said and "ms/request" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_hold_a_character_costs_no_result(encoding):
    code = (
        "import sys\n"
        "sys.argv = ['kv-cache-rl', 'replay', 'eviction-eval-easy-0000-v2', '--policy', 'keep']\n"
        "from kv_cache_rl.cli import main; main()"
    )
    told = {}
    for name in ("utf-8", encoding):
        done = program(
            f"import sys\nsys.stdout.reconfigure(encoding={name!r})\n{code}",
            capture_output=True,
            encoding=name,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told[name] = done.stdout
    assert "█" in told["utf-8"]
    assert told[encoding] == told["utf-8"].encode(encoding, "replace").decode(encoding)


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_shows_the_name_of_its_work_as_it_is(name):
    from io import StringIO

    from rich.console import Console

    with Bar(name, quiet=True) as bar:
        bar(1, 2)
        drawn = Console(file=StringIO(), width=200)
        drawn.print(bar.progress.make_tasks_table(bar.progress.tasks))
    assert name in drawn.file.getvalue()


def test_a_file_with_brackets_in_its_name_and_in_its_header_is_shown(kv, tmp_path, write):
    (tmp_path / "q[/x]").mkdir(parents=True)
    path = write([LAB | {"name": "run [/a]"}, *REQUESTS], "q[/x]/tr[bold].jsonl")
    assert f"{path}: lab" in kv("traces", "show", path).out.replace("\n", "")


def test_no_help_loses_its_brackets(kv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "900")
    root, seen = typer.main.get_command(app), 0
    for path, command in commands():
        said = " ".join(kv(*path, "--help").out.split())
        for text in (command.help, *(parameter.help or "" for parameter in command.params)):
            for word in re.findall(r"\S*\[\S*", inspect.cleandoc(text).replace("\\[", "[")):
                assert word in said, (path, word)
                seen += 1
    assert root is not None and seen >= 2


def test_a_command_whose_output_is_closed_ends_well(tmp_path, write):
    path = write([LAB, *REQUESTS])
    for more in ("", "--json"):
        words = ["kv-cache-rl", "traces", "show", str(path), *more.split()]
        code = (
            f"import sys; sys.stdout = None; sys.argv = {words!r}\nfrom kv_cache_rl.cli import main; main()"
        )
        done = program(code, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, "")


def test_json_goes_nowhere_where_there_is_no_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert print_json({}) is None


@pytest.mark.parametrize("where", ["kv_cache_rl.cli.root", "kv_cache_rl.cli.hierarchy"])
def test_an_interrupt_while_commands_are_imported_ends_as_any_other(where):
    code = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {where!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.argv = ['kv-cache-rl', 'hierarchy', 'replay', '--help']\n"
        "from kv_cache_rl.cli import main; main()"
    )
    done = program(code, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_full_disk_names_the_file_and_what_is_saved(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left on device: '.*p\.svg'"), part_of(tmp_path / "p.svg"):
        raise full
    saved = pytest.raises(BadInput, match=r"^out: No space left.*2 of 9 rows are saved")
    with saved, stoppable(Path("out"), lambda: "2 of 9 rows are saved"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure")
    from kv_cache_rl.reports.canvas import save

    def cut_short(self, path, **_):
        path.write_text("<svg")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(figures.Figure, "savefig", cut_short)
    with pytest.raises(OSError, match=r"'.*p\.svg'"):
        save(figures.Figure(), tmp_path / "p.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_and_not_the_file_alone(tmp_path):
    missing = FileNotFoundError(errno.ENOENT, "no", str(tmp_path / "x" / "y.jsonl"))
    assert f"y.jsonl: there is no folder {tmp_path / 'x'}; make it" in as_sentence(missing)
    missing = FileNotFoundError(errno.ENOENT, "no", str(tmp_path / "y.jsonl"))
    assert "y.jsonl: there is no such file" in as_sentence(missing)


def test_a_file_that_stands_where_a_folder_should_is_named_as_one(kv, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    for said, command in (
        ("a.jsonl/x", ("hierarchy", "workload", "rag_burst", "--set", "length=500", "--out", "a.jsonl/x")),
        ("a.jsonl", ("export-sft", "-n", 1, "-d", "easy", "-p", "keep", "--out", "a.jsonl/x.jsonl")),
        ("a.jsonl/x", ("baselines", "-n", 1, "-d", "easy", "-p", "keep", "--out", "a.jsonl/x")),
        ("--log a.jsonl/b/x", ("serving", "simulate", "--ticks", 9, "--log", "a.jsonl/b/x")),
    ):
        done = kv(*command)
        why = f"error: {said}: a.jsonl is a file, not a folder; give another path\n"
        assert (done.code, done.err) == (2, why), command


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_lost_is_raised_at_the_next_step():
    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)  # Python prints and drops what a finaliser raises

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Bar("work", quiet=True) as bar:
        bar(1, 3)
        Callback()
        bar(2, 3)
    assert bar.done == 1 and signal.getsignal(signal.SIGINT) is before
