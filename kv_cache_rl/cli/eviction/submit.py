"""``submit``: a run as a file for the leaderboard; ``leaderboard``: these files checked, and their page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import OUTPUT, AsJson, Markdown
from kv_cache_rl.cli.terminal import console, print_json, waiting
from kv_cache_rl.cli.tree import group
from kv_cache_rl.files import slug, write_whole

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario

PAGE, TABLE = "index.html", "README.md"
"""The files that ``leaderboard build`` writes."""
NOT_IN_TERMINAL = ("by", "easy", "medium", "hard", "refused calls", "asked", "calls")


def whole_split(folder: Path, config: dict, split: str | None) -> dict[str, "Scenario"]:
    """The scenarios of a run. Raises BadInput where these are not a whole committed set."""
    if config["trace"] is not None:
        raise BadInput(
            f"{folder} played windows of {Path(config['trace']).name}, which others may not have; submit a "
            "run of a committed set: --split test --num-examples -1"
        )
    if split not in (None, config["split"]):
        raise BadInput(f"{folder} played the {config['split']} set, the first run the {split} set")
    return runs.scenarios_of(config | {"difficulty": "all", "num_examples": -1})


def played_by(model: str, told: list[tuple[Path, dict, list["Outcome"]]]) -> tuple[dict, dict, list]:
    """What the runs say of one model: config and target of the first, the rollouts of each.

    Raises BadInput where the runs asked it differently.
    """
    found: list[tuple[dict, dict]] = []
    rollouts = []
    if len({folder.resolve() for folder, *_ in told}) < len(told):
        raise BadInput("a run folder is given twice; each is one run")
    for folder, config, outcomes in told:
        targets = [target for target in config["targets"] if target["model"] == model]
        if not targets:
            raise BadInput(f"{folder} has no model {model!r}; every run of a submission has its model")
        for name in ("view", "history"):
            if found and found[0][1].get(name) != targets[0].get(name):
                raise BadInput(
                    f"{folder} asked {model} with {name} {targets[0].get(name)}, the first run with "
                    f"{found[0][1].get(name)}; submit them apart"
                )
        for name in ("sampling", "prices"):
            if found and (found[0][0].get(name) or None) != (config.get(name) or None):
                raise BadInput(
                    f"{folder} has {name} {config.get(name)}, the first run {found[0][0].get(name)}; submit "
                    "them apart"
                )
        found.append((config, targets[0]))
        rollouts.append([outcome for outcome in outcomes if outcome.model == model])
    return *found[0], rollouts


def run_submit(
    run: Annotated[
        list[Path],
        typer.Argument(help="Run folders that eval or baselines --out made, each of the whole set."),
    ],
    out: Annotated[
        Path,
        options.out("The file to write (NAME.json or NAME.json.gz), or a folder for a file a model."),
    ],
    by: Annotated[str, options.option(OUTPUT, "--by", help="Who submits; shown beside the name.")],
    name: Annotated[
        str | None,
        options.name("What the table calls it; default: as the model."),
    ] = None,
    model: Annotated[
        str | None, options.model("The model of the runs that is submitted; default: the only one.")
    ] = None,
    link: Annotated[
        str, options.option(OUTPUT, "--link", help="Where more is said of it: an https address.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a leaderboard submission of a run: the log of every episode, with the scores that it earns.

    Every episode of a committed set has to be there, and none may have failed.

    Several run folders are several runs of the same model: they give pass^k.

    Example: kv-cache-rl submit runs/mine --by "A. Person" --out mine.json.gz
    """
    from kv_cache_rl.reports.eviction.submission import submission
    from kv_cache_rl.reports.eviction.submission_file import write_submission

    told, scenarios, split = [], {}, None
    with waiting("playing the logs again", as_json):
        for folder in run:
            config = runs.read_config(folder)
            scenarios = whole_split(folder, config, split)
            split = config["split"]
            told.append((folder, config, runs.results_of(folder, config, scenarios)))
        models = list(dict.fromkeys(outcome.model for outcome in told[0][2]))
        if model is not None:
            models = [choose("model", model, models)]
        into = out.is_dir() or not out.suffix
        if len(models) > 1 and (not into or name):
            raise BadInput(
                f"{run[0]} holds {counted(len(models), 'model')}: {', '.join(models)[:200]}; choose one with "
                "--model, or give a folder as --out and no --name"
            )
        called = [f"{slug(name or one)}.json.gz" for one in models]
        if len(set(called)) < len(called):
            raise BadInput(
                "the names of two models make one file name; choose each with --model and --out FILE"
            )
        if into:
            out.mkdir(parents=True, exist_ok=True)
        written = []
        for one in models:
            config, target, rollouts = played_by(one, told)
            more: dict[str, Any] = {
                "sampling": config.get("sampling") or {},
                "prices": config.get("prices") or None,
            }
            made = submission(
                rollouts,
                scenarios,
                name=name or one,
                by=by,
                target=target,
                split=config["split"],
                link=link,
                **more,
            )
            path = out / f"{slug(made.name)}.json.gz" if into else out
            write_submission(path, made)
            written.append((path, made.name))
    if as_json:
        print_json({"submissions": [{"file": str(path), "name": called} for path, called in written]})
        return
    for path, called in written:
        typer.echo(f"{called}: {path} ({amount(path.stat().st_size)})")


def run_build(
    folder: Annotated[Path, typer.Argument(help="The folder of the submissions: NAME.json or NAME.json.gz.")],
    out: Annotated[
        Path | None,
        options.out(f"The folder to write {PAGE} and {TABLE} to; default: that of the submissions."),
    ] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """Check every submission of a folder by playing its logs again, and write table and page.

    What was altered, or is of other scenarios or another version, is refused; then no page is written.

    Example: kv-cache-rl leaderboard build leaderboard
    """
    from kv_cache_rl.reports.eviction import leaderboard
    from kv_cache_rl.reports.tables import plain_table
    from kv_cache_rl.sim.eviction import SPLITS, load_scenarios

    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give the one that holds the submissions")
    place = out or folder
    if not place.is_dir():
        raise BadInput(f"--out {place} is no folder; make it, or give another one")
    for path in (place / PAGE, place / TABLE):
        if path.exists() and leaderboard.MADE not in path.read_text(errors="replace")[:200]:
            raise BadInput(
                f"{path} was not written by this command, which would replace it; give another --out"
            )
    with waiting("playing every log again", as_json):
        splits = {split: {one.id: one for one in load_scenarios(split=split)} for split in SPLITS}
        ranked = leaderboard.entries_in(folder, splits)
    numbers = {
        "environment_version": ranked[0].made.environment_version,
        "split": ranked[0].made.split,
        "entries": [one.to_json() for one in ranked],
    }
    table = leaderboard.markdown(ranked)
    write_whole(place / PAGE, leaderboard.page(ranked).encode())
    write_whole(place / TABLE, table.encode())
    if as_json:
        print_json(numbers)
    elif markdown:
        typer.echo(table, nl=False)
    else:
        title = f"{counted(len(ranked), 'submission')}, every log played again"
        # The columns of a page do not fit a terminal.
        columns = [n for n, heading in enumerate(leaderboard.HEADINGS) if heading not in NOT_IN_TERMINAL]
        headings = list(leaderboard.HEADINGS.items())
        shown = plain_table(title, dict(headings[n] for n in columns))
        for row in leaderboard.table(ranked):
            shown.add_row(*(row[n] for n in columns))
        console().print(shown)
        console(stderr=True).print(f"page: {place / PAGE}")


app = group("The leaderboard of the eviction environment: every score is checked.", {"build": run_build})
