"""``paged generate``: text from the model over the paged cache: greedy, samples or beams."""

from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import DECODING, AsJson
from kv_cache_rl.cli.paged.options import Model, Seed, load_model
from kv_cache_rl.cli.terminal import console, print_json


def run_generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    tokens: Annotated[
        int, options.option(DECODING, "--tokens", "-n", help="Tokens to generate.", min=1)
    ] = 80,
    samples: Annotated[
        int,
        options.option(
            DECODING,
            "--samples",
            help="Draw so many continuations instead of the likeliest tokens.",
            min=0,
        ),
    ] = 0,
    beams: Annotated[int, options.option(DECODING, "--beams", help="Search with so many beams.", min=0)] = 0,
    temperature: Annotated[float, options.temperature(0.01)] = 1.0,
    block_tokens: Annotated[
        int, options.option(DECODING, "--block-tokens", help="Tokens per block.", min=1)
    ] = 16,
    model: Model = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the model over a paged cache, and say which blocks that took and shared.

    Example: kv-cache-rl paged generate "anna walks to the " --samples 3 --tokens 40
    """
    if samples and beams:
        raise BadInput("--samples and --beams are two ways to decode; give one")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadInput("the prompt is not UTF-8 text; give one without stray bytes") from None
    decoder = load_model(model)
    ids = decoder.tokenizer.encode(prompt)
    if not ids:
        raise BadInput("the prompt is empty; give some text to go on from")
    if beams > decoder.geometry.vocab:
        raise BadInput(
            f"a beam of width {beams} over {decoder.geometry.vocab} tokens; give at most that many"
        )
    from kv_cache_rl.paged.decoding import beam, greedy, sample

    width = max(samples, beams, 1)
    most = 0

    def look(sequences: list) -> None:
        nonlocal most
        most = max(most, len({block for sequence in sequences for block in sequence.blocks}))

    cache = decoder.new_cache((width + 1) * (-(-(len(ids) + tokens) // block_tokens) + 1), block_tokens)
    scores: list[float | None] = [None for _ in range(width)]
    if samples:
        found = sample(decoder, cache, ids, samples, tokens, seed, temperature, look)
    elif beams:
        best = beam(decoder, cache, ids, beams, tokens, look)
        found, scores[:] = [b.tokens for b in best], [b.score for b in best]
    else:
        found = [greedy(decoder, cache, ids, tokens, look)]
    alone = width * -(-(len(ids) + tokens - 1) // block_tokens)
    texts = [decoder.tokenizer.decode(row) for row in found]
    facts = {
        "blocks": most,
        "blocks_without_sharing": alone,
        "copies": cache.copies,
        "block_tokens": block_tokens,
    }
    if as_json:
        rows = [
            {"text": text, "tokens": row, "score": score}
            for text, row, score in zip(texts, found, scores, strict=True)
        ]
        print_json(
            {"model": decoder.geometry.name, "prompt": prompt, "seed": seed, "continuations": rows, **facts}
        )
        return
    for text, score in zip(texts, scores, strict=True):
        typer.echo(prompt + text if score is None else f"{score:9.3f}  {prompt}{text}")
    console(stderr=True).print(
        f"{most} blocks of {block_tokens} tokens at most, {alone} without sharing, {cache.copies} copied "
        "on write"
    )
