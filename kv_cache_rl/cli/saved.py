"""Work that is saved as it grows: one writer at a time, and an end that says how to go on."""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kv_cache_rl.cli.failures import BadInput, Interrupted, as_sentence
from kv_cache_rl.files import NotJson, holds, json_text, read_json


def refuse_replacing(record: Path, mine: Mapping[str, Any], option: str = "--out") -> None:
    """Raises BadInput where a folder holds the finished work of another command or of other settings, which
    this one would replace.

    Args:
        record: the file of the folder that says what was asked for, as JSON.
        mine: what is asked for now; a folder that says the same may be made anew.
        option: names the folder.
    """
    if not record.exists():
        return
    try:
        found = read_json(record)
    except NotJson as error:
        raise BadInput(f"{error}; give another {option}, or delete the folder") from None
    theirs = found if isinstance(found, dict) else {}
    for name, value in mine.items():
        if theirs.get(name) != value:
            was, now = (json_text(one, indent=None)[:80] for one in (theirs.get(name), value))
            raise BadInput(
                f"{record.parent} holds another run ({name} {was}, not {now}), which this one would replace; "
                f"give another {option}, or delete the folder"
            )


@contextmanager
def only_writer(folder: Path, what: str) -> Generator[None]:
    """Holds a folder that grows for this process, which is an evaluation or the like (`what`).

    Raises BadInput where another one holds it.
    """
    if os.name == "nt":  # opens no folders, and has no locks
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        if not holds(held):
            raise BadInput(f"another {what} writes to {folder} now; wait until it ends, or stop it first")
        yield
    finally:
        os.close(held)


@contextmanager
def stoppable(place: Path, go_on: Callable[[], str]) -> Generator[None]:
    """An interrupt, and a disk that takes no more, end with what `go_on` says: what is saved, and the command
    that goes on. A file where a folder should be has none.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(go_on()) from None
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInput(as_sentence(error)) from error
    except OSError as error:
        what = error.strerror or str(error)
        raise BadInput(f"{error.filename or place}: {what}; make room or mend it. {go_on()}") from error
