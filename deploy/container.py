"""Carries out the steps of Dockerfiles in a bare folder, without docker.

The image's paths lie below the folder, and its user is uid 1000 where root runs this, else the present user.
A base image is a python of this machine. The steps are those of the files.
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import ROOT, Step, Wrong, copied

UID = 1000
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED = re.compile(r"PIP_.*|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|.*_proxy", re.IGNORECASE)
"""Variables of this shell that a build sees, as docker passes those of a proxy."""


def as_user() -> dict:
    """How a process becomes the image's user, where this one is root's."""
    return {"user": UID, "group": UID, "extra_groups": []} if os.getuid() == 0 else {}


@dataclass
class Machine:
    """A folder that stands for a container's root, and how a step is run in it."""

    bare: Path
    python: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    plain: bool = False
    """Whether steps run as the image's user."""
    names: tuple[str, ...] = ()
    """Folders below the root that the image makes: paths that begin with them lie in the bare folder."""

    @property
    def root(self) -> Path:
        return self.bare / "root"

    def place(self, text: str) -> str:
        """The text with the image's paths where they are here."""
        names = "|".join(self.names)
        return re.sub(rf"(?<![\w./$}}-])/(?=(?:{names})(?:/|$|[\s:\"']))", f"{self.root}/", text)

    def path(self, text: str) -> Path:
        """Where a path of a step lies."""
        whole = text if text.startswith("/") else f"{self.workdir}/{text}"
        return self.root / os.path.normpath(whole).lstrip("/")

    def user(self) -> dict:
        """How a process becomes whoever the steps run as."""
        return as_user() if self.plain else {}

    def begin(self, earlier: str | None) -> None:
        """A stage on a base image, which has python; the stage before is put aside under its name."""
        if earlier is not None:
            self.root.rename(self.bare / earlier)
        (self.root / "usr/local/bin").mkdir(parents=True)
        for name in ("python", "python3"):
            (self.root / "usr/local/bin" / name).symlink_to(self.python)
        (self.root / "root").mkdir()
        passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
        base = {"PATH": f"{self.root}/usr/local/bin:{SYSTEM}", "HOME": f"{self.root}/root"}
        self.env, self.workdir, self.plain = passed | base, "/", False

    def run(self, words: list[str], **changes: str) -> subprocess.Popen:
        """Starts a program as the image would."""
        return subprocess.Popen(
            words,
            cwd=self.path(self.workdir),
            env=self.env | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self.user(),
        )

    def done(self, words: list[str], **changes: str) -> str:
        """What a program says that has to end well. Raises Wrong where it does not."""
        process = self.run(words, **changes)
        said, _ = process.communicate()
        if process.returncode:
            raise Wrong(f"ended with {process.returncode}: {shlex.join(words)[:300]}\n{said[-3000:]}")
        return said


def build(machine: Machine, steps: list[Step], stage: str | None = None, context: Path = ROOT) -> None:
    """Carries out the steps. Raises Wrong, naming the line, where one fails.

    Args:
        stage: the one that the machine holds already.
    """
    sources = copied(steps, context)
    for step in steps:
        began = time.monotonic()
        try:
            if step.word == "FROM":
                stage = start(machine, step, stage)
            else:
                carry_out(machine, step, sources, context)
        except Wrong as wrong:
            raise Wrong(f"line {step.line}, {step.word}: {wrong}") from None
        if step.word in ("RUN", "COPY"):
            print(f"{time.monotonic() - began:7.1f} s  {step.word} {step.rest[:80]}", flush=True)


def start(machine: Machine, step: Step, stage: str | None) -> str:
    """Begins a stage, on a base image or on the stage before it; its name."""
    base, _, name = step.rest.partition(" AS ")
    if base != stage:
        machine.begin(stage)
    return name or "last"


def carry_out(machine: Machine, step: Step, sources: dict[str, list[str]], context: Path) -> None:
    """One step within a stage."""
    if step.word in ("ENV", "ARG"):
        for pair in shlex.split(step.rest):
            name, _, value = pair.partition("=")
            expanded = re.sub(r"\$\{?(\w+)\}?", lambda m: machine.env.get(m[1], ""), machine.place(value))
            machine.env[name] = expanded
    elif step.word == "WORKDIR":
        machine.workdir = step.rest
        machine.path("").mkdir(parents=True, exist_ok=True)
    elif step.word == "USER":
        machine.plain = True
    elif step.word == "COPY":
        copy(machine, step, sources, context)
    elif step.word == "RUN" and step.rest.startswith("useradd "):
        make_home(machine, step)
    elif step.word == "RUN":
        machine.done(["/bin/sh", "-c", machine.place(step.rest)])


def make_home(machine: Machine, step: Step) -> None:
    """What `useradd --create-home` leaves, without an entry among this machine's users."""
    if f"--uid {UID}" not in step.rest:
        raise Wrong(f"the image's user is to have uid {UID}")
    home = machine.path(f"/home/{step.words[-1]}")
    home.mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(home, UID, UID)


def copy(machine: Machine, step: Step, sources: dict[str, list[str]], context: Path) -> None:
    """Copies files of the context, or a folder of a stage before; root's, so not for the user to write."""
    *given, target = step.words
    to = machine.path(target)
    if stage := step.options.get("from"):
        shutil.copytree(machine.bare / stage / given[0].lstrip("/"), to, symlinks=True)
        subprocess.run(["chmod", "-R", "a-w", str(to)], check=True)
        return
    for source in given:
        for name in sources[source]:
            below = os.path.relpath(name, source) if name != source else Path(name).name
            into = to / below if target.endswith("/") or name != source else to
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(context / name, into)
            into.chmod(0o644)


def base_python(asked: Path | None) -> Path:
    """A python that the plain user may run. Raises Wrong where there is none."""
    found = asked or shutil.which("python3", path=SYSTEM)
    look = "import sys, venv; assert sys.version_info >= (3, 11)"
    try:
        if found and subprocess.run([found, "-c", look], cwd="/", **as_user()).returncode == 0:
            return Path(found)
    except OSError:
        pass
    raise Wrong(f"{found} is no python 3.11 with venv that uid {UID} may run; name one with --python")


def machine_for(steps: list[Step], bare: Path, python: Path) -> Machine:
    """An empty machine whose own folders are those that these steps name."""
    absolute = [step.rest for step in steps if step.word == "WORKDIR"]
    absolute += [step.words[-1] for step in steps if step.word == "COPY" and step.words[-1].startswith("/")]
    return Machine(bare, python, names=tuple(sorted({path.split("/")[1] for path in absolute})))
