"""Options that the paged commands share, and the model and text they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.failures import BadInput

if TYPE_CHECKING:
    from kv_cache_rl.paged.model import Decoder

Model = Annotated[Path | None, typer.Option(help="Folder with a Llama-family checkpoint; default: the small model shipped.")]
Seed = Annotated[int, typer.Option(help="Draws lengths, random tensors and samples.", min=0)]
Text = Annotated[Path | None, typer.Option(help="Text file the model was not trained on; default: the held-out tales.")]


def load_model(folder: Path | None) -> "Decoder":
    """The decoder, torch set to one thread so that numbers compare. Raises BadInput where torch is missing."""
    try:
        from kv_cache_rl.paged.calibrate import one_thread
        from kv_cache_rl.paged.model import Decoder
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("kv_cache_rl"):
            raise
        raise BadInput(f"paged attention needs {missing.name}; pip install 'kv-cache-rl[torch]'") from None
    one_thread()
    return Decoder.load(folder)


def load_tokens(model: "Decoder", path: Path | None, least: int) -> list[int]:
    """At least so many tokens of text. Raises BadInput where the file has fewer."""
    from kv_cache_rl.paged.quality import held_out_tokens

    if path is None:
        return held_out_tokens(model, least)
    try:
        tokens = model.tokenizer.encode(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8 text; give a plain text file") from None
    if len(tokens) < least:
        raise BadInput(f"{path} has {len(tokens)} tokens, {least} are needed; give a longer text")
    return tokens
