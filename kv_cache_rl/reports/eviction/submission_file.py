"""The file of a submission: one JSON object, packed with gzip if its name ends so."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.numbers import is_count, is_number
from kv_cache_rl.files import LINE_LIMIT, NotJson, json_text, json_value, regular, write_whole
from kv_cache_rl.reports.eviction.outcome import is_finite
from kv_cache_rl.reports.eviction.submission import (
    FORMAT,
    TOLD,
    Played,
    Run,
    Submission,
    SubmissionError,
    check_words,
)
from kv_cache_rl.sim.eviction import HISTORIES, SPLITS, VIEWS
from kv_cache_rl.sim.eviction.log import log_fault

ENDINGS = (".json", ".json.gz")
MOST_RUNS = 100


def write_submission(path: Path, made: Submission) -> None:
    """Writes the file, packed if its name says so; the same bytes for the same submission.

    Raises:
        SubmissionError: a name that a leaderboard does not look for, or what it would refuse.
    """
    text = json_text(made.to_json(), indent=None)
    from_json(json_value(text))
    if not path.name.endswith(ENDINGS):
        raise SubmissionError(f"{path}: a submission is called NAME.json or NAME.json.gz; rename it")
    data = f"{text}\n".encode()
    if path.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    write_whole(path, data)


def read_submission(path: Path) -> Submission:
    """The submission of a file, its fields checked, its scores not yet.

    Raises:
        SubmissionError: it is no submission, or one of another version; with file, field and remedy.
        OSError: it cannot be opened.
    """
    try:
        return from_json(json_value(_content(path)))
    except Refused as error:
        raise SubmissionError(f"{path}: {error}") from None


def _content(path: Path) -> bytes:
    with open(regular(path), "rb") as file:
        data = file.read(LINE_LIMIT + 1)
    if path.suffix == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(LINE_LIMIT + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise NotJson(f"it is called .gz and is not gzip, or is cut off ({error})") from None
    if len(data) > LINE_LIMIT:
        raise NotJson(f"it holds more than {LINE_LIMIT:,} bytes")
    return data


def from_json(found: Any) -> Submission:
    """The submission of an object. Raises SubmissionError naming the field."""
    if not isinstance(found, dict) or "submission" not in found:
        raise SubmissionError("this is no submission; make one with kv-cache-rl submit RUN --out FILE")
    version = found.get("environment_version")
    if found["submission"] is True or found["submission"] != FORMAT or version != ENVIRONMENT_VERSION:
        raise SubmissionError(
            f"it is of environment version {version!r:.40} and form {found['submission']!r:.20}, this is "
            f"version {ENVIRONMENT_VERSION!r} and form {FORMAT}; scores compare only within one version, so "
            "play the split again and submit anew"
        )
    given = {name: value for name, value in found.items() if name != "submission"}
    checked("the submission", given, HEAD, optional=("link", "prices", "sampling"))
    runs = tuple(_run(number, run) for number, run in enumerate(given.pop("runs"), 1))
    made = Submission(runs=runs, **given)
    check_words(made)
    return made


def _run(number: int, run: Any) -> Run:
    if not isinstance(run, dict):
        raise SubmissionError(f"run {number} is {type(run).__name__}, not an object of episodes by scenario")
    for key, one in run.items():
        where = f"run {number}, {key[:80]}"
        if not isinstance(one, dict):
            raise SubmissionError(f"{where} is {type(one).__name__}, not an object")
        if fault := log_fault(one.get("log")):
            raise SubmissionError(f"{where}: its log is none: {fault}")
        checked(where, one, EPISODE, optional=TOLD)
        if one.get("cached_tokens", 0) > one.get("prompt_tokens", 0):
            raise SubmissionError(f"{where}: more tokens came from a cache than were read; correct the two")
    return {key: Played(**one) for key, one in run.items()}


def checked(
    where: str,
    found: Mapping,
    kinds: Mapping[str, tuple[str, Callable[[Any], bool]]],
    optional: Sequence[str],
) -> None:
    """Raises SubmissionError for a field that is missing, unknown or of another kind."""
    for name in found:
        if name not in kinds:
            raise SubmissionError(f"{where}: {unknown('field', name, kinds)}")
    for name, (wanted, fits) in kinds.items():
        if name not in found:
            if name in optional:
                continue
            raise SubmissionError(f"{where}: the field {name!r} is missing")
        if not fits(found[name]):
            shown = json.dumps(found[name])[:60]
            raise SubmissionError(f"{where}: the field {name!r} is {shown}, not {wanted}")


def _is_prices(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"in", "out", "cached"}
        and all(is_finite(price) and 0 <= price < 1e9 for price in value.values())
    )


def _is_sampling(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(one) or one is None for one in value.values())


def _one_of(known: Sequence[str]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known


TEXT = ("a text", lambda value: isinstance(value, str))
COUNT = ("a count below 10 ** 15", lambda value: is_count(value) and value < 10**15)
HEAD: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("name", "by", "model", "link", "environment_version"), TEXT),
    "split": _one_of(SPLITS),
    "view": _one_of(VIEWS),
    "history": _one_of(HISTORIES),
    "prices": ("prices of a million tokens: in, out and cached", _is_prices),
    "sampling": ("numbers by name", _is_sampling),
    "runs": (
        f"a list of 1 to {MOST_RUNS} runs",
        lambda value: isinstance(value, list) and 1 <= len(value) <= MOST_RUNS,
    ),
}
EPISODE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "log": ("a list of windows of calls", lambda value: not log_fault(value)),
    **dict.fromkeys(("reward", "normalized"), ("a number", is_finite)),
    "trail": ("eight hexadecimal digits a window", lambda value: isinstance(value, str)),
    **dict.fromkeys(TOLD, COUNT),
}
"""What each field holds: in words, and the check."""
