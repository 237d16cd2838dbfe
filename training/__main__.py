"""``python -m training``: data, SFT, rollouts, RL, a served model."""

import time
from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli.exits import BAD_INPUT, INTERRUPTED
from kv_cache_rl.cli.failures import as_sentence
from kv_cache_rl.core.errors import Refused

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option("--out", help="The file or run folder to write; a run folder goes on.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Everything that is drawn comes from it.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="A folder or a name on the hub; default: SmolLM2-135M-Instruct."),
]
Start = Annotated[Path | None, typer.Option("--start", help="A run or an adapter to start from.")]
Data = Annotated[list[Path], typer.Option("--data", help="A file of examples; repeat for several.")]
Rate = Annotated[float, typer.Option("--rate", help="Learning rate of AdamW, at its highest.")]


def say(text: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


@app.command()
def data(
    out: Out = Path("runs/lm/data.jsonl"),
    examples: Annotated[int, typer.Option("--examples", min=1, help="How many windows.")] = 6_000,
    seed: Seed = 1,
) -> None:
    """Write decisions of the expert on generated training scenarios, one window an example.

    Example: python -m training data --examples 6000 --out runs/lm/data.jsonl
    """
    from training.decisions import make, write

    out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(make(examples, seed))
    write(out, rows)
    say(f"{len(rows)} examples in {out}")


@app.command()
def sft(
    data: Data,
    out: Out = Path("runs/lm/sft"),
    examples: Annotated[int, typer.Option("--examples", min=1, help="How many are seen.")] = 4_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples a step.")] = 8,
    rate: Rate = 1e-3,
    start: Start = None,
    model: Model = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the layers: faster after minutes.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Teach the model the expert's answers. Go on with the same command after an interruption.

    Example: python -m training sft --data runs/lm/data.jsonl --out runs/lm/sft --compile
    """
    from training.decisions import load

    rows = load(data)  # torch takes seconds to load, and says nothing of a file that is not there
    from training import sft as course
    from training.models import load_base, load_trained, trunk, with_adapter
    from training.run import Plan

    loaded = load_trained(start, model) if start else with_adapter(load_base(model), seed)
    if compiled:
        for layer in trunk(loaded)[0].layers:
            layer.compile(dynamic=False)
    plan = Plan(loaded.name, "sft", [file.name for file in data], examples, batch, rate, seed)
    course.train(loaded, rows, plan, out, say)


@app.command()
def play(
    start: Annotated[Path, typer.Argument(help="A run or an adapter.")],
    out: Out = Path("runs/lm/student.jsonl"),
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many, the tiers in turn.")] = 48,
    split: Annotated[str, typer.Option("--split", help="The committed set: train or eval.")] = "train",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    model: Model = None,
    seed: Seed = 2,
) -> None:
    """Let the model play episodes; the expert labels every window that it comes to (DAgger).

    Example: python -m training play runs/lm/sft --episodes 48 --out runs/lm/student.jsonl
    """
    import torch

    from kv_cache_rl.sim.eviction import load_scenarios
    from training.decisions import write
    from training.models import load_trained
    from training.rollouts import play as played

    out.parent.mkdir(parents=True, exist_ok=True)
    scenarios = load_scenarios(split=split, num_examples=episodes, seed=seed)
    made = played(
        load_trained(start, model), scenarios, temperature, torch.Generator().manual_seed(seed), say
    )
    rows = [row for rollout in made for row in rollout.examples()]
    write(out, rows)
    scores = [rollout.score for rollout in made]
    calls, refused = sum(one.calls for one in made), sum(one.refused for one in made)
    say(
        f"{len(rows)} examples in {out}; score {sum(scores) / len(scores):+.3f}, {calls} calls, {refused} "
        f"refused, {sum(one.unreadable for one in made)} answers unreadable"
    )


@app.command()
def rl(
    start: Annotated[Path, typer.Argument(help="The SFT run, or its adapter.")],
    out: Out = Path("runs/lm/rl"),
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many are played in all.")] = 24,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Episodes a step, the tiers in turn.")] = 6,
    rate: Rate = 1e-4,
    model: Model = None,
    seed: Seed = 3,
) -> None:
    """Go on by reward: a group-relative policy gradient on the normalised score, with a KL to the SFT model.

    Example: python -m training rl runs/lm/sft --out runs/lm/rl --episodes 24
    """
    from kv_cache_rl.sim.eviction import load_scenarios
    from training import rl as course
    from training.models import load_trained
    from training.run import Plan

    loaded = load_trained(start, model)
    course.with_reference(loaded, start)
    plan = Plan(loaded.name, "rl", [], episodes, batch, rate, seed)
    course.train(loaded, load_scenarios(split="train", seed=seed), plan, out, say)


@app.command()
def serve(
    source: Annotated[
        str | None, typer.Argument(help="A run or an adapter; default: the base model.")
    ] = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8001,
    name: Annotated[str, typer.Option("--name", help="What requests call the model.")] = "smollm2",
    held: Annotated[
        bool, typer.Option("--held", help="Hold a base model to the wording, as trained ones are.")
    ] = False,
) -> None:
    """Serve the model to kv-cache-rl eval, from an OpenAI-compatible server on loopback.

    Example: python -m training serve runs/lm/sft --port 8001 --name smollm2-sft
    """
    from training.models import load, with_adapter
    from training.serve import serve as served

    loaded = load(source)
    # A fresh adapter adds nothing: it is the model as it comes, in the wording.
    served(with_adapter(loaded, 0) if held and not loaded.trained else loaded, name, port, say)


@app.command()
def summary(
    run: Annotated[list[Path], typer.Argument(help="Folders of kv-cache-rl eval, a model each.")],
    trained: Annotated[
        list[Path] | None, typer.Option("--trained", help="A training; repeat, in their order.")
    ] = None,
    out: Out = Path("results/training"),
) -> None:
    """Compare evaluated models with the project's deciders, paired by scenario; draw how trainings went.

    Example: python -m training summary runs/eval-sft runs/eval-rl --trained runs/lm/sft --trained runs/lm/rl
    """
    from training.summary import write_results

    write_results(run, trained or [], out)
    say(f"evaluation.json{', course.json and course.png' if trained else ''} in {out}")


def main() -> None:
    """Runs a command; what a user can solve is one sentence and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        raise SystemExit(INTERRUPTED) from None
    except (Refused, OSError) as error:
        typer.echo(as_sentence(error), err=True)
        raise SystemExit(BAD_INPUT) from None
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        typer.echo("the memory is full; give a smaller --batch", err=True)
        raise SystemExit(BAD_INPUT) from None


if __name__ == "__main__":
    main()
