"""What the documents say is done: code is run, numbers are compared with results/, links lead somewhere."""

import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from editing import command, edited, execute
from pages import NOT_RUN, OUTPUT, PAGES, QUOTED, ROOT, blocks, commands, name, prose

from kv_cache_rl.cli import main
from kv_cache_rl.reports.documents.figures import FIGURES
from kv_cache_rl.reports.documents.regions import rewritten
from kv_cache_rl.sim.eviction import REWARDS
from kv_cache_rl.sim.serving.score import SCORE_WEIGHTS
from kv_cache_rl.sim.serving.spec import TASKS

GUIDE = ROOT / "docs" / "extending" / "adding_a_policy.md"
IN_VLLM = ROOT / "docs" / "extending" / "a_policy_in_vllm.md"
COMING = ROOT / "docs" / "coming_from.md"
WANTED = ROOT / "docs" / "i_want_to.md"
SITE = sorted((ROOT / "docs").rglob("*.md"))
NAMED = {
    GUIDE: {"function", "line", "reference", "check", "queue", "queue import", "queue line"},
    IN_VLLM: {"function", "line", "check"},
}
"""Blocks that a test below uses by the name in the comment before them."""
NOT_CODE = {"", "text", "json"}
WRITES_NUMBERS = "python -m kv_cache_rl.reports.documents"
"""It works on a checkout, so it has a test of its own."""
OF_PAGES: dict[Path, list[str]] = {}
for _page in PAGES:
    _known = {WRITES_NUMBERS} | {line for lines in OF_PAGES.values() for line in lines}
    OF_PAGES |= {_page: found} if (found := [line for line in commands(_page) if line not in _known]) else {}
"""Page → the commands that no page before it has: each is run once."""


def shell(line: str, folder: Path) -> str:
    """What a command prints in a shell of its own, with the programs of this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
    )
    # `head` closes the pipe early; the command before it may then end by a broken pipe.
    assert done.returncode in ((0, 141, 1) if "| head" in line else (0,)), f"{line}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(line) → what a command prints in an empty folder; ours run in this process, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    def run_line(line: str) -> str:
        words = shlex.split(line.split(" | head")[0])
        if words[0] != "kv-cache-rl" or words[1] == "eval":
            return shell(line, tmp_path)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        said = capsys.readouterr()
        assert ended.value.code in (0, None), f"{line}\n{said.err}"
        return said.out

    return run_line


# Code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_code_is_run_or_says_why_not(page):
    for block in blocks(page):
        if block.language in NOT_CODE:
            continue
        where = f"{name(page)}, line {block.line}"
        if block.marked(NOT_RUN):
            assert len(block.mark) > len(NOT_RUN) + 10, f"{where}: give the reason"
        elif block.language == "python" and ">>>" not in block.code:
            known = block.mark in NAMED.get(page, ()) or block.marked(QUOTED) or page == COMING
            assert known, f"{where}: write it as a doctest, or say `<!-- not run: REASON -->`"
        else:
            assert block.language in ("python", "bash"), f"{where}: no test runs {block.language}"


@pytest.mark.parametrize("page", OF_PAGES, ids=name)
def test_the_commands_of_a_page_succeed_and_say_something(page, run):
    for line in OF_PAGES[page]:
        assert run(line), line


def test_the_command_that_writes_the_numbers_leaves_a_checkout_as_it_is():
    assert shell(WRITES_NUMBERS, ROOT) == ""


def test_a_command_works_in_a_shell_as_it_does_here(tmp_path):
    assert "learned" in shell(commands(ROOT / "README.md")[0], tmp_path)


@pytest.mark.parametrize("page", [p for p in PAGES if ">>>" in p.read_text(encoding="utf-8")], ids=name)
def test_the_python_examples_of_a_page_hold(page):
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted and not found.failed


def test_an_output_shown_is_that_of_its_command(run):
    shown = [block for page in PAGES for block in blocks(page) if block.marked(OUTPUT)]
    assert shown
    for block in shown:
        printed = run(block.mark.removeprefix(OUTPUT))
        for line in block.code.splitlines():
            assert line in printed, line


def rows_of(page: Path) -> list[tuple[str, str]]:
    """(code, remark) of the rows of a page whose second cell is code."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"\| .* \| `([^`]+)` \|(.*)\|$", line) for line in lines]
    return [(row[1], row[2].strip()) for row in found if row]


def is_command(code: str) -> bool:
    return code.split()[0] in ("kv-cache-rl", "python", "make")


def rows_to_run(page: Path) -> list[tuple[str, str]]:
    return [(code, remark) for code, remark in rows_of(page) if not remark.startswith(NOT_RUN)]


COMING_ROWS = rows_to_run(COMING)
WANTED_ROWS = rows_to_run(WANTED)


NEW_ROWS = [
    code
    for code in dict.fromkeys(code for code, _ in COMING_ROWS + WANTED_ROWS if is_command(code))
    if code not in {line for lines in OF_PAGES.values() for line in lines}
]


@pytest.mark.parametrize("code", NEW_ROWS)
def test_a_command_of_a_row_works(code, run):
    assert run(code)


def test_the_page_of_questions_gives_every_reader_commands_that_run_and_says_what_the_others_need():
    text = WANTED.read_text(encoding="utf-8")
    for heading in ("Train or test an RL agent", "Size and tune a service", "Learn how a KV cache works"):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        assert sum(f"`{code}`" in section for code, _ in WANTED_ROWS) >= 3, heading


GROUPS = ("eviction", "hierarchy", "serving", "stability", "paged", "engine", "traces", "scenarios")


def test_a_command_that_no_test_runs_has_the_options_that_its_row_gives(run):
    rows = [row for row in rows_of(WANTED) if row[1].startswith(NOT_RUN)]
    assert len(rows) > 5
    for code, remark in rows:
        assert "see [" in remark, f"{code}: say what it needs, and the page"
        words = code.split()
        said = run(shlex.join([*words[: 3 if words[1] in GROUPS else 2], "--help"]))
        for option in [word for word in words if word.startswith("--")]:
            assert option in said, f"{code}: {option}"


def test_a_name_for_those_who_come_from_another_project_works():
    (setup,) = [block.code for block in blocks(COMING) if block.language == "python"]
    rows = [code for code, _ in COMING_ROWS if not is_command(code)]
    assert len(rows) > 20
    scope: dict = {}
    exec(setup, scope)
    for code in rows:
        try:
            exec(code, scope) if code.startswith("from ") else eval(code, scope)
        except Exception as error:
            raise AssertionError(f"{code}: {error}") from error


def test_a_name_for_those_who_come_from_the_original_environment_works():
    rows = (ROOT / "environments/kv_cache_eviction/README.md").read_text(encoding="utf-8").splitlines()
    (here,) = [row for row in rows if row.startswith("| `load_environment(")]
    scope: dict = {"vf": importlib.import_module("verifiers.v1")}
    assert eval(re.findall(r"`(vf\..*?\))`", here)[0], scope)
    (here,) = [row for row in rows if row.startswith("| `StatefulToolEnv`")]
    package = Path(importlib.import_module("kv_cache_eviction").__file__ or "").parent
    defined = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    for kind in re.findall(r"`(Eviction\w+)`", here):
        assert f"class {kind}(" in defined, kind


def test_every_file_that_a_row_names_instead_of_code_exists():
    for code, remark in rows_of(COMING):
        if remark.startswith(NOT_RUN) and "/" in code and " " not in code:
            assert (ROOT / code).exists(), code


# Numbers


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_numbers_of_a_page_are_those_of_its_results_files(page):
    text = page.read_text(encoding="utf-8")
    assert rewritten(text, ROOT) == text, f"run: {WRITES_NUMBERS}"


def table_of(page: Path, first: str) -> list[list[str]]:
    """The cells of the rows of a table, told by the first cell of its head; code without its marks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first} |")) + 2
    rows = takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


ENVIRONMENT = ROOT / "environments/kv_cache_eviction/README.md"


@pytest.mark.parametrize(
    ("page", "first"),
    [(ROOT / "docs/worlds/eviction.md", "reward"), (ENVIRONMENT, "Reward")],
    ids=["site", "environment"],
)
def test_the_weights_that_a_page_gives_are_those_of_the_rewards(page, first):
    shown = {row[0]: row[1] for row in table_of(page, first)}
    if page == ENVIRONMENT:
        assert shown.pop("normalized_score").startswith("0 (1 in ")
    assert {name: float(weight) for name, weight in shown.items()} == REWARDS


def test_the_tasks_and_weights_of_the_serving_page_are_those_of_the_world():
    page = ROOT / "docs/worlds/serving.md"
    rows = {row[0]: row[2:] for row in table_of(page, "task")}
    assert list(rows) == list(TASKS)
    for task, one in TASKS.items():
        rho = f"{one.rho}" if one.rho == one.rho_peak else f"{one.rho}, {one.rho_peak}"
        sla = "none" if one.sla_free is None else f"{one.sla_free:g} / {one.sla_vip:g}"
        assert rows[task] == [rho, sla, f"{one.ticks:,}"], task
    said = " ".join(page.read_text(encoding="utf-8").split())
    throughput, latency, residency = SCORE_WEIGHTS["hard"]
    assert SCORE_WEIGHTS["medium"] == SCORE_WEIGHTS["hard"]
    assert f"is {throughput:.2f} times completed work" in said and f"plus {latency:.2f} times latency" in said
    assert f"plus {residency:.2f} times cache residency" in said
    assert "On easy the weights are {:.2f}, {:.2f} and {:g}.".format(*SCORE_WEIGHTS["easy"]) in said


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_region_within_a_line_does_not_begin_it(page):
    # A line that begins with a comment is raw HTML in Markdown: code and emphasis in it would not be shown.
    assert not re.search(
        r"^\s*<!-- table: [\w-]+ -->[^\n]*<!-- end -->", page.read_text(encoding="utf-8"), re.M
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *SITE], ids=name)
def test_an_interval_in_prose_is_generated(page):
    written = [(number, line) for number, line in prose(page) if re.search(r"\d ± \d", line)]
    assert written == [], "numbers come from files: make a region of it"


def test_the_figures_of_the_site_are_those_of_the_results():
    for figure, file in FIGURES.items():
        assert (ROOT / "docs/images" / figure).read_bytes() == (ROOT / "results" / file).read_bytes(), figure
    assert {path.name for path in (ROOT / "docs/images").iterdir()} == set(FIGURES)


def test_every_file_of_results_has_a_line_that_says_what_made_it():
    table = (ROOT / "results/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "results").rglob("*.json*"):
        file = path.relative_to(ROOT / "results").as_posix()
        folder = file.split("/")[1] + "/"
        assert f"`{file}`" in table or f"`{folder}`" in table or f"`hierarchy/{folder}`" in table, file


# The guide to adding a policy, and the examples


def block(mark, page=GUIDE):
    """The code of a guide under a marker."""
    (found,) = [one.code for one in blocks(page) if one.mark == mark]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package with the edits of the guide."""
    folder = edited(
        tmp_path_factory.mktemp("edited"),
        "policies/rank.py",
        ("RANKS: dict[str, Rank] = {\n", block("function") + "\n\n"),
        ("}\nRANK_IDS", block("line")),
    )
    queues = Path("sim/hierarchy/queues")
    (folder / "kv_cache_rl" / queues / "second_chance.py").write_text(block("queue"), encoding="utf-8")
    return edited(
        folder,
        str(queues / "__init__.py"),
        ("from kv_cache_rl.sim.hierarchy.state import", block("queue import")),
        ("}\nQUEUE_IDS", block("queue line")),
    )


def test_a_policy_added_as_the_guide_says_replays_like_its_reference(folder):
    script = folder / "check.py"
    script.write_text(block("reference") + "\n\n" + block("check") + "print('agrees')\n", encoding="utf-8")
    assert execute(folder, script, NUMBA_DISABLE_JIT="1") == "agrees\n"


@pytest.mark.parametrize("policy", ["uses_per_byte", "second_chance"])
def test_a_policy_added_as_the_guide_says_is_known_to_the_commands(folder, policy):
    line = f"hierarchy replay workload:rag_burst --policy {policy} --capacity 24 --json"
    assert f'"policy": "{policy}"' in command(folder, line)


def test_a_policy_of_ten_lines_finds_in_the_lab_what_it_found_in_vllm(tmp_path):
    lines = [block(mark, IN_VLLM) for mark in ("function", "line")]
    assert sum(len(code.splitlines()) for code in lines) <= 10
    edits = zip(("RANKS: dict[str, Rank] = {\n", "}\nRANK_IDS"), (lines[0] + "\n\n", lines[1]), strict=True)
    folder = edited(tmp_path, "policies/rank.py", *edits)
    (folder / "check.py").write_text(block("check", IN_VLLM), encoding="utf-8")
    engine = json.loads((ROOT / "tests/golden/engine/once_first.json").read_text(encoding="utf-8"))
    found = {row["policy"]: sum(row["found"]) for row in engine["rows"]}
    printed = execute(folder, "check.py", NUMBA_DISABLE_JIT="1")
    assert printed == f"lru {found['lru']}\nonce_first {found['once_first']}\n"
    line = "hierarchy replay workload:rag_burst --policy once_first --capacity 24 --json"
    assert '"policy": "once_first"' in command(folder, line)


def test_what_the_guide_quotes_stands_in_the_file_it_names():
    quoted = [(one.mark.removeprefix(QUOTED), one.code) for one in blocks(GUIDE) if one.marked(QUOTED)]
    assert quoted
    for file, code in quoted:
        assert code in (ROOT / file).read_text(encoding="utf-8")


def test_the_policy_tried_in_the_example_is_the_guides():
    body = block("function").split("\n", 1)[1]
    assert body in (ROOT / "examples" / "add_a_policy.py").read_text(encoding="utf-8")


def test_the_example_tries_a_policy_without_editing_the_package():
    out = execute(ROOT, ROOT / "examples" / "add_a_policy.py")
    header, *lines = out.splitlines()[1:]
    assert header.split() == ["share", "uses_per_byte", "lru", "lfu", "gdsf", "largest_first", "bound"]
    assert len(lines) == 4
    for line in lines:
        *rates, bound = map(float, line.split()[1:])
        assert max(rates) <= bound


def test_the_replay_example_runs_on_a_workload_and_on_a_file(tmp_path):
    out = execute(ROOT, ROOT / "examples" / "hierarchy_replay.py")
    assert "Belady's MIN" in out and "overlapped" in out
    path = tmp_path / "tree.jsonl"
    lines = [
        '{"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "name": "tree", '
        '"block_tokens": 16}'
    ]
    lines += [
        f'{{"time_s": {k}, "sequence": {k % 3}, "runs": [[0, 4], [{4 + 10 * (k % 3)}, {2 + k // 3}]]}}'
        for k in range(12)
    ]
    path.write_text("\n".join(lines) + "\n")
    assert "prefix-closed MIN" in execute(ROOT, ROOT / "examples" / "hierarchy_replay.py", path)
