"""AdamW on float32 copies of the few weights that are trained, which the model may hold in bfloat16."""

import math
from collections.abc import Iterable

import torch

from kv_cache_rl.core.errors import Refused

LONGEST = 1.0
"""Norm above which a gradient is shortened."""


class Diverged(Refused):
    """The loss is no number any more; says how to go on."""


class MasterAdamW:
    """Steps of AdamW; `state` and `restore` make it resumable."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], rate: float) -> None:
        self.trained = [one for one in parameters if one.requires_grad]
        self.masters = [one.detach().float().clone() for one in self.trained]
        self.rate = rate
        self._inner = torch.optim.AdamW(self.masters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, share: float) -> float:
        """One step with `share` of the rate, from the gradients in the model; gives their norm."""
        for master, model in zip(self.masters, self.trained, strict=True):
            master.grad = model.grad.float()
            model.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, LONGEST))
        if not math.isfinite(norm):
            raise Diverged(
                "the gradient is no number any more, so nothing was changed; go on from the last checkpoint "
                "with a lower --rate"
            )
        for group in self._inner.param_groups:
            group["lr"] = self.rate * share
        self._inner.step()
        self._write()
        return norm

    def _write(self) -> None:
        with torch.no_grad():
            for master, model in zip(self.masters, self.trained, strict=True):
                model.copy_(master)

    def state(self) -> dict:
        return {"masters": self.masters, "adamw": self._inner.state_dict()}

    def restore(self, state: dict) -> None:
        with torch.no_grad():
            for master, stored in zip(self.masters, state["masters"], strict=True):
                master.copy_(stored)
        self._inner.load_state_dict(state["adamw"])
        self._write()
