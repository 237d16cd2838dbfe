"""Options that the paged commands share, and the model and text they name."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import DECODING, SERVICE, WORKLOAD, model, option, seed
from kv_cache_rl.files import regular

if TYPE_CHECKING:
    from kv_cache_rl.paged.model import Decoder

Model = Annotated[
    Path | None, model("Folder with a Llama-family checkpoint; default: the small model shipped.", SERVICE)
]
Seed = Annotated[int, seed("Draws lengths, random tensors and samples.", high=2**63 - 1)]
Text = Annotated[
    Path | None,
    option(WORKLOAD, "--text", help="Text file the model was not trained on; default: the held-out tales."),
]

Tokens = Annotated[int, option(DECODING, "--tokens", "-n", help="Tokens to generate at most.", min=1)]
BlockTokens = Annotated[int, option(DECODING, "--block-tokens", help="Tokens per block.", min=1)]

BYTES = 256


def probe(path: Path) -> None:
    """Makes the folders of a file that is to be written, and raises OSError where it cannot be: before
    anything is measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    regular(path)
    if path.exists():
        path.open("ab").close()
    else:
        tempfile.TemporaryFile(dir=path.parent).close()


def load_model(folder: Path | None) -> "Decoder":
    """The decoder, torch set to one thread so that numbers compare.

    Raises BadInput where its tokenizer is missing, MissingExtra where torch is.
    """
    from kv_cache_rl.paged.measure.calibrate import one_thread
    from kv_cache_rl.paged.model import Decoder
    from kv_cache_rl.paged.tokenizer import ByteTokenizer

    one_thread()
    model = Decoder.load(folder)
    if isinstance(model.tokenizer, ByteTokenizer) and model.geometry.vocab != BYTES:
        raise BadInput(
            f"{folder} has no tokenizer.json and {model.geometry.vocab} tokens, bytes would need {BYTES}; "
            "put the checkpoint's tokenizer.json beside its config.json"
        )
    return model


def load_tokens(model: "Decoder", path: Path | None, least: int) -> list[int]:
    """At least so many tokens of text, none special. Raises BadInput where the file has fewer."""
    from kv_cache_rl.paged.measure.quality import held_out_tokens

    if path is None:
        return held_out_tokens(model, least)
    try:
        tokens = model.tokenizer.plain(regular(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8 text; give a plain text file") from None
    if len(tokens) < least:
        raise BadInput(f"{path} has {len(tokens)} tokens, {least} are needed; give a longer text")
    return tokens


def prompt_ids(model: "Decoder", prompt: str) -> list[int]:
    """The prompt as the checkpoint takes it. Raises BadInput where it is empty or no text."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadInput("the prompt is not UTF-8 text; give one without stray bytes") from None
    if not model.tokenizer.plain(prompt):
        raise BadInput("the prompt is empty; give some text to go on from")
    return model.tokenizer.encode(prompt)


def own_tales(model: "Decoder") -> str:
    """What to expect of the shipped model."""
    return (
        f"{model.geometry.name}, the small model that is shipped, knows its own generated tales only "
        "(anna, boris, the mill, the number of the gate); --model DIR runs a checkpoint"
    )
