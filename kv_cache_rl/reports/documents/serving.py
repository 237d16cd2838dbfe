"""Tables of the serving world, from what ``serving evaluate --json`` prints."""

from statistics import fmean

from kv_cache_rl.intervals import paired_difference
from kv_cache_rl.reports.documents.markdown import spread, table
from kv_cache_rl.reports.serving import transfer as elsewhere
from kv_cache_rl.reports.serving.tables import scores

BOUND = "fluid bound"


def tasks(found: dict) -> str:
    """Every agent on every task: score, paired difference to lru, completed work over the bound's."""
    names = list(dict.fromkeys(one["task"] for one in found["results"]))
    cells = {(one["task"], one["agent"]): _cell(one) for one in found["results"]}
    heads = ["agent", *(f"{task}: score · minus {found['base']} · of the bound" for task in names)]
    agents = dict.fromkeys(one["agent"] for one in found["results"])
    return table(heads, ([_name(a), *(cells[t, a] for t in names)] for a in agents))


def _name(agent: str) -> str:
    return f"*{agent}*" if agent == BOUND else f"`{agent}`"


def _cell(one: dict) -> str:
    if one["agent"] == BOUND:
        return f"1 · - · 100 % ({100 * one['of_work']['mean']:.1f} % of what arrives)"
    against = one["score_minus_base"]
    return " · ".join(
        (
            spread(one["score"], "{:.3f}"),
            spread(against, "{:+.3f}") if against else "-",
            f"{100 * one['of_bound']['mean']:.1f} %",
        )
    )


def _of(found: dict, task: str, agent: str) -> dict:
    return next(one for one in found["results"] if (one["task"], one["agent"]) == (task, agent))


def one_line(found: dict) -> str:
    """The hard task in one sentence."""
    score = {
        name: spread(_of(found, "hard", name)["score"], "{:.3f}")
        for name in ("lru", "stability", "ppo", "oracle")
    }
    return (
        f"On the hard task `lru` scores {score['lru']}, `stability` {score['stability']}, the trained "
        f"network `ppo` {score['ppo']}, and a planner that sees the future {score['oracle']}."
    )


def forced(found: dict) -> str:
    """Forced preemptions of two agents, in words."""
    counts = [
        f"{_of(found, task, agent)['forced']['mean']:.0f}"
        for agent in ("lru", "stability")
        for task in ("medium", "hard")
    ]
    return (
        f"`lru` forces {counts[0]} preemptions in a medium episode and {counts[1]} in a hard one, "
        f"`stability` {counts[2]} and {counts[3]}"
    )


LEARNED, RIVALS = ("qlearning", "neural", "ppo"), ("lru", "stability", "watermark_90")


def learned(found: dict) -> str:
    """Learned agents minus their rivals, paired by seed."""
    return _differences(found, {name: name for name in LEARNED}, "{:+.4f}")


def another_seed(found: dict) -> str:
    """Networks of another training seed minus the same rivals."""
    names = {row["agent"] for row in found["episodes"]}
    named = {name: f"{name.rpartition('/')[2].partition('.')[0]}, seed 1" for name in names if "/" in name}
    return _differences(found, dict(sorted(named.items())), "{:+.4f}")


def _differences(found: dict, agents: dict[str, str], form: str) -> str:
    """A row for each agent (name → what it is called), a column for each task: minus each of the rivals."""
    played: dict[tuple[str, str], list[dict]] = {}
    for row in found["episodes"]:
        played.setdefault((row["task"], row["agent"]), []).append(row)
    tasks = list(dict.fromkeys(task for task, _ in played))

    def cell(task: str, agent: str) -> str:
        mine = scores(played[task, agent])
        pairs = (paired_difference(mine, scores(played[task, rival])) for rival in RIVALS)
        return " · ".join(spread(pair.to_json(), form) if pair else "-" for pair in pairs)

    heads = ["agent", *(f"{task}: minus {' · '.join(RIVALS)}" for task in tasks)]
    return table(heads, ([f"`{name}`", *(cell(t, a) for t in tasks)] for a, name in agents.items()))


def kept(neural: dict, ppo: dict) -> str:
    """Which round of each training ships, in words."""
    texts = []
    for record in (neural, ppo):
        best = max(record["curve"], key=lambda point: fmean(point["select"].values()))
        kind = "which learns by reward" if best["kind"] == "learns" else "which imitates"
        name, rounds = record["training"]["agent"], record["training"]["rounds"]
        texts.append(f"`{name}` ships round {best['round']} of {rounds}, {kind}")
    return " · ".join(texts)


def tried(found: dict) -> str:
    """Trials before the shipped trainings: scores on selection seeds minus those of `stability`."""
    rows = []
    for one in found["trials"]:
        marks = [f"{one[name]:+.4f}" if name in one else "-" for name in ("medium", "hard")]
        rows.append([one["what"], f"{one['decisions'] / 1e6:.1f} M" if "decisions" in one else "-", *marks])
    heads = ["trial", "decisions learned from", "medium: minus stability", "hard: minus stability"]
    return table(heads, rows)


def transferred(found: dict) -> str:
    """Agents where they were not trained."""
    return elsewhere.markdown(found["rows"]).rstrip("\n")


TABLES = {
    "serving-tasks": (tasks, "serving/evaluate.json.gz"),
    "serving-line": (one_line, "serving/evaluate.json.gz"),
    "serving-forced": (forced, "serving/evaluate.json.gz"),
    "serving-learned": (learned, "serving/evaluate.json.gz"),
    "serving-another-seed": (another_seed, "serving/another_seed.json.gz"),
    "serving-kept": (
        kept,
        "../kv_cache_rl/agents/weights/neural.json",
        "../kv_cache_rl/agents/weights/ppo.json",
    ),
    "serving-tried": (tried, "serving/tried.json"),
    "serving-transfer": (transferred, "serving/transfer.json"),
}
