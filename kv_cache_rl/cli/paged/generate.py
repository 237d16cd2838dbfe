"""``paged generate``: text from the model over the paged cache: greedy, samples or beams."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, Interrupted
from kv_cache_rl.cli.options import DECODING, AsJson
from kv_cache_rl.cli.paged.options import BlockTokens, Model, Seed, Tokens, load_model, own_tales, prompt_ids
from kv_cache_rl.cli.terminal import Bar, console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.paged.model import Decoder
    from kv_cache_rl.paged.sequences import Sequence

MOST_AT_ONCE = 1024
"""Continuations of one run: all are decoded in one batch and hold their blocks together."""


@dataclass(slots=True)
class Progress:
    """What a run has taken so far, seen after every step."""

    bar: Bar
    tokens: int
    steps: int = 0
    most: int = 0
    """Blocks held at once."""

    def __call__(self, sequences: list["Sequence"]) -> None:
        self.steps += 1
        self.most = max(self.most, len({block for sequence in sequences for block in sequence.blocks}))
        self.bar(self.steps, self.tokens)


@dataclass(frozen=True, slots=True)
class Asked:
    """How to decode."""

    samples: int
    beams: int
    tokens: int
    temperature: float
    seed: int
    length_penalty: float
    stops: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Continuations."""
        return max(self.samples, self.beams, 1)


def decoded(decoder: "Decoder", cache: Any, ids: list[int], asked: Asked, look: Progress) -> list[dict]:
    """The continuations, as plain values."""
    from kv_cache_rl.paged.decoding import beam, greedy, sample
    from kv_cache_rl.paged.ending import ending_of

    ending = ending_of(decoder, **asked.stops)
    if asked.beams:
        best = beam(
            decoder, cache, ids, asked.beams, asked.tokens, look,
            length_penalty=asked.length_penalty, **asked.stops,
        )  # fmt: skip
        found = [(b.tokens, {"score": b.score, "rank": b.rank(asked.length_penalty)}) for b in best]
    else:
        if asked.samples:
            drawn = (asked.samples, asked.tokens, asked.seed, asked.temperature, look)
            rows = sample(decoder, cache, ids, *drawn, **asked.stops)
        else:
            rows = [greedy(decoder, cache, ids, asked.tokens, look, **asked.stops)]
        found = [(row, {"score": None, "rank": None}) for row in rows]
    return [
        {"text": ending.text(row), "tokens": row, **scores}
        | {"finish_reason": "stop" if ending.reached(row) else "length"}
        for row, scores in found
    ]


def run_generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    tokens: Tokens = 80,
    samples: Annotated[
        int,
        options.option(
            DECODING,
            "--samples",
            help=f"Draw so many continuations instead of the likeliest tokens, up to {MOST_AT_ONCE:,}.",
            min=0,
        ),
    ] = 0,
    beams: Annotated[
        int,
        options.option(DECODING, "--beams", help=f"Search with so many, up to {MOST_AT_ONCE:,}.", min=0),
    ] = 0,
    temperature: Annotated[float, options.temperature(0.01)] = 1.0,
    stop: Annotated[
        list[str] | None,
        options.option(DECODING, "--stop", help="End before this text; repeat for several."),
    ] = None,
    stop_token: Annotated[
        list[int] | None,
        options.option(DECODING, "--stop-token", help="End behind this token id; repeat for several."),
    ] = None,
    ignore_eos: Annotated[
        bool, options.option(DECODING, "--ignore-eos", help="Go on behind the checkpoint's end tokens.")
    ] = False,
    length_penalty: Annotated[
        float,
        options.option(
            DECODING, "--length-penalty", help="Beams are compared by score / tokens ^ this; 0: by score."
        ),
    ] = 1.0,
    block_tokens: BlockTokens = 16,
    model: Model = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the model over a paged cache, and say which blocks that took and shared.

    The small model that is shipped knows its own generated tales only; --model runs a checkpoint.

    A continuation ends at an end token of the checkpoint, at a stop, or after --tokens.

    Example: kv-cache-rl paged generate "anna walks to the " --samples 3 --tokens 40
    """
    if samples and beams:
        raise BadInput("--samples and --beams are two ways to decode; give one")
    if not beams and length_penalty != 1.0:
        raise BadInput(f"--length-penalty {length_penalty} compares beams; give --beams, or leave it out")
    if not samples and temperature != 1.0:
        raise BadInput(f"--temperature {temperature} is of samples; give --samples, or leave it out")
    asked = Asked(
        samples, beams, tokens, temperature, seed, length_penalty,
        {"stop": stop_token or None, "stop_text": stop or None, "ignore_eos": ignore_eos},
    )  # fmt: skip
    if asked.width > MOST_AT_ONCE:
        raise BadInput(
            f"{asked.width:,} continuations at once; give at most {MOST_AT_ONCE:,}. Sample i of --seed S is "
            "the first of --seed S+i, so that several runs draw more"
        )
    decoder = load_model(model)
    ids = prompt_ids(decoder, prompt)
    if beams > decoder.geometry.vocab:
        raise BadInput(
            f"a beam of width {beams} over {decoder.geometry.vocab} tokens; give at most that many"
        )
    width, each = asked.width, len(ids) + tokens
    cache = decoder.new_cache((width + 1) * (-(-each // block_tokens) + 1), block_tokens)
    with Bar(f"decode {width:,} x {tokens:,} tokens", as_json) as bar:
        look = Progress(bar, tokens)
        try:
            rows = decoded(decoder, cache, ids, asked, look)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{look.steps:,} of {tokens:,} tokens of each continuation were decoded; nothing is printed"
            ) from None
    # Beams that were given up may have been longer than those that are left.
    lengths = [look.steps] * width if beams else [len(row["tokens"]) for row in rows]
    written = sum(-(-(len(ids) + length - 1) // block_tokens) for length in lengths)
    facts = {
        "blocks": look.most,
        "blocks_without_sharing": written,
        "copies": cache.copies,
        "block_tokens": block_tokens,
    }
    if as_json:
        head = {"model": decoder.geometry.name, "prompt": prompt, "prompt_tokens": ids, "seed": seed}
        print_json({**head, "length_penalty": length_penalty, "continuations": rows, **facts})
        return
    for row in rows:
        begin = "" if row["score"] is None else f"{row['score']:9.3f}  "
        typer.echo(f"{begin}{prompt}{row['text']}")
    err = console(stderr=True)
    stopped = sum(row["finish_reason"] == "stop" for row in rows)
    ends = f", {stopped} of {len(rows)} ended at a stop" if stopped else ""
    err.print(
        f"{counted(look.most, 'block')} of {block_tokens} tokens at most, {written} without sharing, "
        f"{cache.copies} copied on write{ends}",
        soft_wrap=True,
    )
    if model is None:
        err.print(own_tales(decoder), soft_wrap=True)
