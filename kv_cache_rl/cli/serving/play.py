"""Any agent by its name, the oracle and a user's own too: a whole episode as fast as it goes, or decision by
decision.
"""

import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated

from kv_cache_rl.cli.failures import BadInput, as_sentence, choose
from kv_cache_rl.cli.options import names_of, refuse_read
from kv_cache_rl.cli.serving.options import agent
from kv_cache_rl.core.errors import Refused, raised

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.experiments.identity import Identity
    from kv_cache_rl.search.serving.rollout import Decide
    from kv_cache_rl.sim.serving.spec import Scenario
    from kv_cache_rl.sim.serving.state import State

BASE, LLM, ALL = "lru", "llm", "all"

OWN = "One of your own: MODULE:FACTORY, FILE.py:FACTORY, or a file of weights that `serving train` wrote."
Agents = Annotated[
    list[str] | None,
    agent(
        "By comma or repeated; all: every one but llm; default: all but the canaries. llm: a chat model. "
        + OWN
    ),
]


def known_agents() -> list[str]:
    """Names of all agents, the oracle last."""
    from kv_cache_rl.adapters import playing

    return playing.known_agents()


def agents_of(values: list[str] | None) -> list[str]:
    """The named agents. Raises BadInput or ServingError for one that does not exist."""
    from kv_cache_rl.agents import CANARIES

    known, found = known_agents(), []
    for name in names_of(values):
        found += known if name == ALL else [agent_of(name)]
    return list(dict.fromkeys(found)) or [name for name in known if name not in CANARIES]


def agent_of(name: str) -> str:
    """The name itself, where an agent has it. Raises BadInput or ServingError where none does."""
    from kv_cache_rl.agents import factory_of
    from kv_cache_rl.agents.outside import is_outside, tried

    known = [*known_agents(), LLM]
    if name not in known and is_outside(name):
        with aside(name):
            tried(name, factory_of(name))
        return name
    return choose("agent", name, known)


def refuse_agents_files(names: Iterable[str], outputs: Mapping[str, Path | None]) -> None:
    """Raises BadInput where an output is a file that an agent from outside is made of.

    Args:
        names: agents.
        outputs: option -> the file that it names, if any.
    """
    from kv_cache_rl.agents import factory_of
    from kv_cache_rl.agents.outside import is_outside
    from kv_cache_rl.experiments.identity import files_read

    given = {spelling: path for spelling, path in outputs.items() if path is not None and path.is_file()}
    for name in names if given else ():
        if name not in known_agents() and is_outside(name):
            with blamed(name):
                read = files_read(factory_of(name))
            for spelling, path in given.items():
                refuse_read(spelling, path, read)


@contextmanager
def aside(name: str) -> Generator[None]:
    """What an agent from outside prints goes to stderr while the block lasts: stdout is the command's."""
    from kv_cache_rl.agents.outside import is_outside

    if name in known_agents() or not is_outside(name) or sys.stderr is None:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def blamed(name: str) -> Generator[None]:
    """Names the agent where its own code fails.

    Raises:
        BadInput: it failed; says where.
    """
    from kv_cache_rl.agents.outside import is_outside

    try:
        with aside(name):
            yield
    except (Exception, SystemExit) as wrong:
        ours = isinstance(wrong, OSError) and not passed_through(wrong, name)  # a log that cannot be written
        if not is_outside(name) or isinstance(wrong, Refused) or ours:
            raise
        raise BadInput(f"{name} failed: {raised(wrong)}; mend it") from wrong


def passed_through(wrong: BaseException, name: str) -> bool:
    """Whether an error came from an agent's own code."""
    from kv_cache_rl.experiments.modules import is_own

    root = name.partition(":")[0].partition(".")[0]
    frames = (frame for frame, _ in walk_tb(wrong.__traceback__))
    return any(is_own(str(frame.f_globals.get("__name__")), [root]) for frame in frames)


def identity(name: str) -> "Identity":
    """What an agent is beyond its name: its code, what it holds, its weights."""
    from kv_cache_rl.adapters.playing import PLANNER
    from kv_cache_rl.agents import factory_of
    from kv_cache_rl.experiments.identity import Identity, identity_of

    if name == PLANNER:  # this package's code alone, which every row's key holds
        return Identity("")
    try:
        with aside(name):
            return identity_of(factory_of(name))
    except OSError as wrong:
        raise BadInput(f"{name} names weights that cannot be read: {as_sentence(wrong)}") from None
    except Refused as wrong:
        raise BadInput(f"{name}: {wrong}") from None
    except Exception as wrong:  # it cannot even be made; its rows say so too
        return Identity(None, f"its factory failed, {type(wrong).__name__}: {wrong}")


def play(name: str, scenario: "Scenario", seed: int) -> "State":
    """The end of an agent's episode."""
    from kv_cache_rl.adapters import playing

    with aside(name):
        return playing.play(name, scenario, seed)


def recorded(name: str, state: "State") -> "Decide":
    """An agent that is about to play `state` from its beginning, what one from outside prints put aside."""
    from kv_cache_rl.adapters import playing

    with aside(name):
        decide = playing.decider(name, state)

    def quietly(seen: "np.ndarray", mask: "np.ndarray") -> int:
        with aside(name):
            return decide(seen, mask)

    return quietly
