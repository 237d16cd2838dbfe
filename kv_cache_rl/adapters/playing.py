"""A serving agent in charge of a server, the oracle too: a whole episode as fast as it goes, or decision by
decision.
"""

import numpy as np

from kv_cache_rl import agents
from kv_cache_rl.agents.compiled import qlearning
from kv_cache_rl.experiments.serving.log import ticks
from kv_cache_rl.search.serving.oracle import Base, bases, solve
from kv_cache_rl.search.serving.rollout import Decide, finish
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import choose
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import State

ORACLE = "oracle"


def known_agents() -> list[str]:
    """Names of all agents, the oracle last."""
    return [*agents.AGENTS, ORACLE]


def play(name: str, scenario: Scenario, seed: int) -> State:
    """The end of an agent's episode."""
    if name == ORACLE:
        return solve(scenario, seed, workers=1, learned=learned()).state
    state = new_state(scenario, seed)
    agent = agents.agent(name)
    agent.reset(agent_seed(seed))
    if isinstance(agent, agents.CompiledAgent):
        finish(state, agent.which, agent.memory)
    else:
        for _ in ticks(state, asked(agent)):
            pass
    return state


def asked(agent: agents.Agent) -> Decide:
    """An agent's decisions on views of its own: what it writes into them changes nothing."""
    return lambda seen, mask: agent.act(seen.copy(), mask.copy())


def learned() -> dict[str, Base]:
    """The learned agents that the oracle may fall back on."""
    table = qlearning()
    return {table.name: (table.which, table.start)}


def decider(name: str, state: State) -> Decide:
    """An agent that is about to play `state` from its beginning, as a function."""
    if name == ORACLE:
        return following(plan(state.scenario, state.seed), state)
    agent = agents.agent(name)
    agent.reset(agent_seed(state.seed))
    return asked(agent)


def plan(scenario: Scenario, seed: int) -> tuple[str, ...]:
    """The oracle's plan for an episode: the base policy that plays each segment."""
    return solve(scenario, seed, workers=1, learned=learned()).policies


def following(policies: tuple[str, ...], state: State) -> Decide:
    """The oracle's plan for `state`, followed by its clock."""
    policy_of = bases(learned())
    book = state.columns.book
    instants = np.linspace(0, int(book["end_us"]), len(policies) + 1).astype(np.int64)[1:-1]

    def decide(seen: np.ndarray, mask: np.ndarray) -> int:
        which, memory = policy_of[policies[int(np.searchsorted(instants, book["clock_us"], side="right"))]]
        return choose(which, seen, mask, memory)

    return decide
