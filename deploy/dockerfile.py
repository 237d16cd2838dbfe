"""A Dockerfile as steps: read, checked, and the files that its context holds."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVER = (ROOT / "Dockerfile",)
TRAINING = (*SERVER, ROOT / "deploy" / "training" / "Dockerfile")
"""The Dockerfiles of an image, each on the stages of those before it."""
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


class Wrong(Exception):
    """A Dockerfile that cannot be carried out here; the text says the line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction."""

    line: int
    word: str
    rest: str
    """What follows the word, lines that go on joined."""

    @property
    def options(self) -> dict[str, str]:
        """``--name=value`` before everything else."""
        return dict(re.findall(r"(?:^|\s)--([a-z-]+)=(\S+)", self.rest.split("CMD")[0]))

    @property
    def words(self) -> list[str]:
        """What stands after the options."""
        return [word for word in self.rest.split() if not word.startswith("--")]

    def command(self) -> list[str] | None:
        """The words of an exec form; None where a shell is meant."""
        found = re.search(r"\[.*\]$", self.rest)
        return json.loads(found.group()) if found else None


def steps_of(*paths: Path) -> list[Step]:
    """The steps of Dockerfiles, one after the other. Raises Wrong for an instruction that is not known."""
    return [step for path in paths for step in read(path.read_text(encoding="utf-8"), path.name)]


def read(text: str, name: str = "Dockerfile") -> Iterator[Step]:
    """The steps of a text."""
    begun, parts = 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        begun = begun if parts else number
        parts.append(line.rstrip().removesuffix("\\"))
        if line.rstrip().endswith("\\"):
            continue
        word, _, rest = "\n".join(parts).strip().partition(" ")
        if word not in KNOWN:
            raise Wrong(
                f"{name}, line {begun}: {word} is not known here; use one of {', '.join(sorted(KNOWN))}"
            )
        # A line that goes on is one line to the shell and to ENV.
        yield Step(begun, word, rest.replace("\n", "").strip())
        parts = []
    if parts:
        raise Wrong(f"{name}, line {begun}: the last line ends in a backslash; end the instruction")


def ignored(context: Path) -> list[tuple[bool, str]]:
    """The patterns of `.dockerignore`: (whether what fits is left out, pattern)."""
    lines = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [(not pattern.startswith("!"), pattern.lstrip("!")) for pattern in patterns]


def sent(path: str, patterns: list[tuple[bool, str]]) -> bool:
    """Whether a file is sent with the context: the last pattern counts that fits it or a folder around it."""
    places = [path, *(str(parent) for parent in Path(path).parents)][:-1]
    left_out = False
    for leaves_out, pattern in patterns:
        forms = {pattern, pattern.removeprefix("**/")}
        if any(fnmatch(place, form) for place in places for form in forms):
            left_out = leaves_out
    return not left_out


def copied(steps: list[Step], context: Path = ROOT) -> dict[str, list[str]]:
    """Source of a COPY from the context -> the files that it brings. Raises Wrong where there are none."""
    patterns, found = ignored(context), {}
    for step in steps:
        if step.word == "COPY" and "from" not in step.options:
            for source in step.words[:-1]:
                there = context / source
                files = [there] if there.is_file() else sorted(p for p in there.rglob("*") if p.is_file())
                names = [path.relative_to(context).as_posix() for path in files]
                found[source] = [name for name in names if sent(name, patterns)]
                if not found[source]:
                    raise Wrong(f"line {step.line}: {source} brings no file; see .dockerignore")
    return found


def stages(steps: list[Step]) -> list[list[Step]]:
    """The steps of each stage, FROM first."""
    starts = [k for k, step in enumerate(steps) if step.word == "FROM"]
    return [steps[a:b] for a, b in zip(starts, [*starts[1:], len(steps)], strict=True)]


def faults(steps: list[Step]) -> list[str]:
    """What a reviewer would send back: rules of hadolint that apply, and those of this project."""
    found = []
    names = {stage[0].rest.split()[-1] for stage in stages(steps) if " AS " in stage[0].rest}
    for k, step in enumerate(steps):
        at = f"line {step.line}, {step.word}"
        if step.word == "FROM":
            base = step.rest.split()[0]
            if base not in names and not re.search(r":[^:]*\d+\.\d+", base) and "@sha256:" not in base:
                found.append(f"{at}: {base} names no version")
        if step.word in ("CMD", "HEALTHCHECK") and step.command() is None:
            found.append(f'{at}: a shell would stand between signals and the program; write ["…", "…"]')
        if step.word == "WORKDIR" and not step.rest.startswith("/"):
            found.append(f"{at}: {step.rest} is no whole path")
        if step.word == "RUN" and re.search(r"\bsudo\b|\bapt(-get)?\b(?!.*rm -rf /var/lib/apt)", step.rest):
            found.append(f"{at}: sudo, or lists of packages that stay in the layer")
        if step.word == "RUN" and "pip install" in step.rest:
            before = [one.rest for one in steps[:k] if one.word == "ENV"]
            if "--no-cache-dir" not in step.rest and not any("PIP_NO_CACHE_DIR=1" in one for one in before):
                found.append(f"{at}: pip's cache stays in the layer")
        if step.word == "COPY" and step.words[0] == ".":
            found.append(f"{at}: everything is copied, so every edit builds everything anew")
    last = [step for stage in stages(steps)[-2:] for step in stage]
    users = [step.rest for step in last if step.word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        found.append("the container runs as root: end with USER 1000")
    elif not users[-1].isdigit():
        found.append(f"USER {users[-1]}: give the number, which Kubernetes' runAsNonRoot checks")
    for word in ("CMD", "HEALTHCHECK"):
        if not any(step.word == word for step in last):
            found.append(f"no {word}")
    return found + late(steps)


def late(steps: list[Step]) -> list[str]:
    """Sources that change often and are copied before dependencies are installed."""
    installs = [k for k, one in enumerate(steps) if "pip install" in one.rest and "--no-deps" not in one.rest]
    return [
        f"line {step.line}, COPY: {source} is copied before the dependencies are installed"
        for step in steps[: installs[0] if installs else 0]
        if step.word == "COPY"
        for source in step.words[:-1]
        if source not in ("pyproject.toml", "requirements.txt")
    ]
