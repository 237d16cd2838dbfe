"""``paged calibrate``: what precisions, swaps and recomputing cost on this machine, as a profile for the
simulators.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson, Fast, command_line
from kv_cache_rl.cli.paged.options import Model, Seed, Text, load_model, load_tokens, probe
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.files import write_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.core.calibration import Calibration


def show(found: "Calibration") -> None:
    """The calibration beside the literature's numbers."""
    from kv_cache_rl.core.precision import PRECISIONS

    columns = {"scheme": "left"} | dict.fromkeys(
        ("bytes", "literature", "attention error", "KL, nats", "delta NLL", "encode ns/B", "decode ns/B"),
        "right",
    )
    law = found.notes["law"]
    caption = (
        f"bytes: of fp16, scales counted; seconds: per fp16 byte. KL = c e^2 with c = {law['factor']:.3g} "
        f"for small e (R2 {law['r_squared']:.3f}, {law['points']} schemes; free exponent "
        f"{law['exponent']:.2f})"
    )
    table = plain_table(f"{found.name}: {found.source}", columns, caption)
    for name, scheme in found.schemes.items():
        theirs = f"{PRECISIONS[name].multiplier:.3f}" if name in PRECISIONS else "-"
        encode = "-" if scheme.encode_s_per_byte is None else f"{1e9 * scheme.encode_s_per_byte:.3g}"
        numbers = [f"{scheme.attention_error:.2e}", f"{scheme.kl:.2e}", f"{scheme.delta_nll:+.5f}"]
        table.add_row(
            name,
            f"{scheme.multiplier:.3f}",
            theirs,
            *numbers,
            encode,
            f"{1e9 * scheme.decode_s_per_byte:.3g}",
        )
    out = console()
    out.print(table)
    if found.link and found.hardware:
        out.print(
            f"host copy {found.link.one_way / 1e9:.3g} GB/s + {1e6 * found.link.latency_s:.0f} us; prefill "
            f"{1e3 * found.hardware.prefill_c0_s:.3g} ms + {1e6 * found.hardware.prefill_c1_s:.3g} us a "
            f"token + {1e9 * found.hardware.prefill_c2_s:.3g} ns a pair of tokens"
        )


def run_calibrate(
    out: Annotated[Path | None, options.out("Write the calibration to this JSON file.")] = None,
    name: Annotated[
        str,
        options.name("Its name, by which rows and pages call it; --calibration takes the file."),
    ] = "measured-here",
    fast: Fast = False,
    text: Text = None,
    model: Model = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what each precision, swapping and recomputing cost on this machine.

    Bytes, attention error, KL and seconds of each precision; swap and recompute seconds per token.

    The file is a named profile beside the literature's: kv-cache-rl hierarchy replay ... --calibration FILE

    Example: kv-cache-rl paged calibrate --fast --out calibration.json
    """
    if out is not None and out.is_dir():
        raise BadInput(f"{out} is a folder; give a file")
    if name == "literature" or not name.strip():
        raise BadInput(f"--name {name!r}: the literature's profile stays what it is; give another name")
    if out is not None:
        probe(out)
    from kv_cache_rl.cli.measured import machine_facts

    decoder = load_model(model)
    rows, length, repeats = (4, 256, 3) if fast else (24, 512, 9)
    tokens, machine = load_tokens(decoder, text, rows * length), machine_facts()
    from kv_cache_rl.paged.measure.calibrate import calibrate, memory_gb

    source = f"measured on {machine['processor']}, one thread, CPU seconds, by {command_line()}"
    with Bar("calibrate", as_json) as bar:

        def started(what: str):
            bar.progress.update(bar.task, description=what)
            return bar

        found = calibrate(
            decoder, tokens, name, source, rows, length, 16, repeats, seed, memory_gb(), started
        )
    data = found.to_json()
    data["notes"] |= {"machine": machine}
    if out is not None:
        write_json(out, data)
    if as_json:
        print_json(data)
    else:
        show(found)
        if out is not None:
            typer.echo(f"written to {out}: kv-cache-rl hierarchy replay ... --calibration {out}")
