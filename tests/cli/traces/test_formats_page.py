"""The page about trace formats: its samples are what it says, and its commands run."""

import re
import shlex
import struct
from pathlib import Path

import pytest

from kv_cache_rl.traces import FORMATS, detect
from kv_cache_rl.traces.summary import COMMANDS, summary_of

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
TEXT = PAGE.read_text(encoding="utf-8")
SAMPLES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", TEXT, re.S | re.M))
BASH = re.search(r"^```bash\n(.*?)^```$", TEXT, re.S | re.M)[1].splitlines()
USES = {
    cells[0].strip(" `"): [cell.strip() for cell in cells[1:5]]
    for cells in (line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `"))
    if len(cells) == 5
}


@pytest.fixture
def samples(tmp_path):
    """A folder with the page's files, and a binary one, which no page can show."""
    for name, text in SAMPLES.items():
        (tmp_path / name).write_text(text)
    records = ((0, 7, 10, 2), (1, 8, 10, -1), (2, 7, 10, -1))
    (tmp_path / "oracle-general.bin").write_bytes(b"".join(struct.pack("<IQIq", *one) for one in records))
    return tmp_path


def test_every_format_has_a_section_and_a_sample_that_is_told_as_it(samples):
    assert re.findall(r"^### (\S+)$", TEXT, re.M) == list(FORMATS)
    files = {path.stem: path for path in samples.iterdir()}
    assert set(files) == set(FORMATS)
    for name, path in files.items():
        assert detect(path) == name


def test_the_table_of_uses_is_what_the_samples_can_be_used_for(samples):
    assert list(USES) == list(FORMATS)
    for path in samples.iterdir():
        found = summary_of(path)
        for command, said in zip(COMMANDS, USES[found.format], strict=True):
            assert said.startswith("no" if found.uses[command] else "yes"), (found.format, command)


def test_every_option_of_reading_is_on_the_page(kv):
    help = kv("traces", "show", "--help").out
    for option in re.findall(r"^\| `(--[\w-]+)", TEXT, re.M):
        assert option in help
    assert {"--block-size", "--time-unit", "--limit"} <= set(re.findall(r"--[\w-]+", TEXT))


@pytest.mark.parametrize("line", BASH)
def test_its_commands_run(kv, samples, monkeypatch, line):
    monkeypatch.chdir(samples)
    words = shlex.split(line)
    assert words[0] == "kv-cache-rl"
    said = kv(*words[1:])
    assert said.code == 0, said.err
