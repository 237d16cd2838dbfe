"""Trains the shipped decoder: `python -m kv_cache_rl.paged.train`; writes weights and a record.

Muon updates the layers' matrices, AdamW the embedding and the norms. The learning rate warms up,
then falls in a straight line to zero.

Source: Jordan et al., Muon (github.com/KellerJordan/Muon); Loshchilov, Hutter, "Decoupled weight
decay" (1711.05101).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kv_cache_rl.paged.checkpoint import EMBEDDING, SHIPPED, DecoderGeometry, write_checkpoint
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.training.corpus import text

GEOMETRY = DecoderGeometry(
    "tales-1m", layers=4, heads=8, kv_heads=2, head_dim=32, width=128, hidden=384, vocab=256
)
TRAIN_SEED, TRAIN_BYTES, HELD_OUT_SEED, HELD_OUT_BYTES = 1, 20_000_000, 2, 64_000
"""The held-out tales have another seed than those for training."""
WARMUP = 30


def batches(seed: int, rows: int, length: int, size: int) -> Iterator[Tensor]:
    """Windows of the training text, int64 [rows, length + 1], drawn uniformly, without end."""
    stream = torch.frombuffer(bytearray(text(seed, size)), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(stream) - length - 1, (rows,), generator=generator)
        yield torch.stack([stream[at : at + length + 1] for at in starts.tolist()]).long()


def nll(model: Decoder, rows: Tensor) -> Tensor:
    """Mean negative log-likelihood of `rows` [n, t + 1], nats per token, given the tokens before."""
    logits = model.dense_logits(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def held_out(length: int) -> Tensor:
    """The held-out tales cut into rows [n, length + 1]."""
    stream = torch.tensor(list(text(HELD_OUT_SEED, HELD_OUT_BYTES)))
    return stream[: len(stream) // (length + 1) * (length + 1)].view(-1, length + 1)


@torch.no_grad()
def held_out_nll(model: Decoder, length: int) -> float:
    """`nll` on the held-out tales."""
    return sum(float(nll(model, rows)) * len(rows) for rows in held_out(length).split(8)) / len(
        held_out(length)
    )


def unigram_nll(length: int) -> float:
    """Nats per token of the byte frequencies of the held-out tales: every model must do better."""
    counts = Counter(held_out(length)[:, 1:].flatten().tolist())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def train(
    steps: int, rows: int, length: int, seed: int, log_every: int
) -> tuple[Decoder, list[dict[str, float]]]:
    """A trained decoder, and its loss curve with a point every `log_every` steps."""
    model = Decoder.untrained(GEOMETRY, seed)
    for weight in model.weights.values():
        weight.requires_grad_()
    matrices = [w for name, w in model.weights.items() if w.ndim == 2 and name != EMBEDDING]
    others = [w for name, w in model.weights.items() if w.ndim != 2 or name == EMBEDDING]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: _rate(at, steps)) for optimizer in optimizers
    ]
    windows, curve, started = batches(TRAIN_SEED, rows, length, TRAIN_BYTES), [], time.process_time()
    for step in range(1, steps + 1):
        loss = nll(model, next(windows))
        loss.backward()
        for change in (*optimizers, *schedules):
            change.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        if step % log_every == 0 or step == steps:
            point = {
                "step": step,
                "train_nll": round(float(loss.detach()), 4),
                "held_out_nll": round(held_out_nll(model, length), 4),
            }
            curve.append(point | {"cpu_seconds": round(time.process_time() - started, 1)})
            print(json.dumps(curve[-1]), flush=True)
    return Decoder(GEOMETRY, {name: w.detach() for name, w in model.weights.items()}), curve


def _rate(at: int, steps: int) -> float:
    return min((at + 1) / WARMUP, (steps - at) / (steps - WARMUP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=SHIPPED, help="folder for config.json, model.safetensors, training.json"
    )
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--rows", type=int, default=8, help="windows per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    asked = parser.parse_args()
    if asked.steps <= WARMUP or min(asked.rows, asked.length, asked.log_every) < 1:
        parser.error(f"--steps must be above {WARMUP}, the other numbers above 0")
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    model, curve = train(asked.steps, asked.rows, asked.length, asked.seed, asked.log_every)
    write_checkpoint(asked.out, GEOMETRY, model.weights, torch.float16)
    stored = Decoder.load(asked.out)
    record = {
        "command": f"python -m kv_cache_rl.paged.train {' '.join(sys.argv[1:])}".strip(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, one thread",
        "parameters": sum(w.numel() for w in model.weights.values()),
        "rows": asked.rows,
        "length": asked.length,
        "tokens": asked.steps * asked.rows * asked.length,
        "cpu_seconds": curve[-1]["cpu_seconds"],
        "unigram_nll": round(unigram_nll(asked.length), 4),
        "held_out_nll": curve[-1]["held_out_nll"],
        "held_out_nll_as_stored": round(held_out_nll(stored, asked.length), 4),
        "curve": curve,
    }
    (asked.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
