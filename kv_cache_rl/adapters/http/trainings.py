"""Trainings of serving agents, read while they run: how far they are, and their curves.

DIR/…/AGENT.checkpoint (while it trains)   AGENT.json (once it has ended)   AGENT.log (what it said, if kept)
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.runs import changed, inside, status_of
from kv_cache_rl.agents import checkpoint
from kv_cache_rl.agents.training.plan import USUAL
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json

LEARNERS = ("qlearning", *USUAL)
SAVED, RECORD, SAID = ".checkpoint", ".json", ".log"
"""Endings of a training's files, the one that counts first."""
DEPTHS = ("*", "*/*")
"""Where trainings lie below the folder of runs."""
MOST = 100
"""Trainings that a list holds, the newest."""
MOST_BYTES = 64 * 2**20
"""Of a file, as much as is read."""
LAST_BYTES = 4_096
"""Of a log, as much as its last line is looked for in."""


class Trainings:
    """The trainings below a folder. A training's name is its path there, and its agent.

    Args:
        root: where they are; None where the server was not told of any.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The trainings, newest first."""
        if self.root is None:
            return []
        newest: dict[str, float] = {}
        for agent in LEARNERS:
            for ending in (SAVED, RECORD, SAID):
                for path in (one for depth in DEPTHS for one in self.root.glob(f"{depth}/{agent}{ending}")):
                    if inside(path, self.root):
                        name = path.relative_to(self.root).with_suffix("").as_posix()
                        newest[name] = max(newest.get(name, 0.0), changed(path))
        return sorted(newest, key=lambda name: (-newest[name], name))[:MOST]

    def listed(self) -> list[dict[str, Any]]:
        """Every training, and how far it is."""
        found = []
        for name in self.names():
            with suppress(Problem, FileNotFoundError):  # it was deleted meanwhile
                found.append(self._about(name, how_far))
        return found

    def opened(self, name: str) -> dict[str, Any]:
        """A training: its plan, how far it is, and its curve so far. Raises Problem (404) where none is."""
        return {"plan": {}, "curve": []} | self._about(name, told)

    def _about(self, name: str, read: Callable[[Path, bool], dict[str, Any]]) -> dict[str, Any]:
        """What has become of a training, and what `read` gives of its file."""
        stem = self.stem(name)
        found: dict[str, Any] = {"done": 0, "total": None, "counted_in": None}
        saved, problem = self.file(stem, SAVED), None
        path = saved or self.file(stem, RECORD)
        try:
            found |= {} if path is None else read(path, saved is not None)
        except Refused as wrong:
            problem = str(wrong).replace(f"{self.root}/", "")
        status = "finished" if saved is None and path is not None else status_of(stem.parent)
        said = None if status != "stopped" else last_line(self.file(stem, SAID))
        about = {"training": name, "agent": stem.name, "status": status, "problem": problem, "said": said}
        return about | found

    def stem(self, name: str) -> Path:
        """A training's files, without their endings. Raises Problem (404) where there are none."""
        parts = name.split("/")
        if self.root is not None and parts[-1] in LEARNERS and not {"", ".", ".."} & set(parts):
            stem = self.root.joinpath(*parts)
            if len(parts) - 1 in range(1, len(DEPTHS) + 1) and any(
                self.file(stem, ending) for ending in (SAVED, RECORD, SAID)
            ):
                return stem
        where = "no --runs DIR was given" if self.root is None else "GET /api/trainings lists them"
        raise Problem(404, f"there is no training {name[:80]!r}; {where}", "training")

    def file(self, stem: Path, ending: str) -> Path | None:
        """A file of a training, or None where it has none there; links out of the root lead nowhere."""
        assert self.root is not None
        path = stem.with_name(stem.name + ending)
        return path if inside(path, self.root) else None


def how_far(path: Path, saved: bool) -> dict[str, Any]:
    """Of what a file tells, how far the training is. Raises Refused where it cannot be read."""
    now = path.stat()
    return _how_far(path, saved, (now.st_ino, now.st_mtime_ns))


@lru_cache(2 * MOST)
def _how_far(path: Path, saved: bool, version: tuple[int, int]) -> dict[str, Any]:
    """`how_far` of a version of the file, read once: the page asks for all of them every two seconds."""
    return {name: value for name, value in told(path, saved).items() if name not in ("plan", "curve")}


def told(path: Path, saved: bool) -> dict[str, Any]:
    """What a checkpoint or a record tells. Raises Refused where it cannot be read."""
    if path.stat().st_size > MOST_BYTES:
        raise Refused(f"{path} holds more than {MOST_BYTES:,} bytes; it is no training")
    about = checkpoint.stored(path)[1] if saved else read_json(path)
    try:
        plan = dict(about["plan" if saved else "training"])
        step = "round" if "rounds" in plan else "episode"
        points = [{**one, step: int(one[step]), "select": scores(one["select"])} for one in about["curve"]]
        total = int(plan[f"{step}s"])
        done = int(about.get("episode", len(points))) if saved else total
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        raise Refused(f"{path} is no training of a serving agent; move it elsewhere") from None
    return {"plan": plan, "curve": points, "done": done, "total": total, "counted_in": step}


def scores(select: dict[str, Any]) -> dict[str, float]:
    """Mean selection scores by task."""
    return {str(name): float(score) for name, score in select.items()}


def last_line(path: Path | None) -> str | None:
    """The last line of a log that says something."""
    if path is None:
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LAST_BYTES, 0))
        lines = file.read(LAST_BYTES).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:LAST_BYTES] if lines else None
