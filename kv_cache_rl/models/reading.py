"""The model that a user names: in the catalogue, as a config.json, or as the folder of one."""

import json
from pathlib import Path
from typing import Any

from kv_cache_rl.core.calibrations import geometry_named
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.geometry import ModelGeometry
from kv_cache_rl.files import LINE_LIMIT, regular
from kv_cache_rl.models.catalogue import CATALOGUE
from kv_cache_rl.models.configs import geometry_of
from kv_cache_rl.models.fields import ModelError

CONFIG, ADAPTER, INDEX = "config.json", "adapter_config.json", "model.safetensors.index.json"


def model_at(text: str) -> ModelGeometry:
    """The geometry of a model by its name, its config.json, or the folder with it.

    Raises:
        ModelError: there is no such model, or its configuration cannot be used.
        OSError: the file cannot be opened.
    """
    known = geometry_named(text)
    if known is not None:
        return known
    for name, entry in CATALOGUE.items():
        if text.lower() in (name, entry.repo.lower()):
            return entry.geometry
    path = Path(text)
    if path.is_dir():
        path = _in_folder(path)
    elif not path.exists() and path.suffix.lower() not in (".json", ".gguf"):
        near = unknown("model", text.rpartition("/")[2], CATALOGUE)
        raise ModelError(f"{near}, or give a {CONFIG} or its folder")
    return geometry_of(read_config(path), _named_after(path), str(path), weights_beside(path))


def _in_folder(folder: Path) -> Path:
    """The configuration in a folder. Raises ModelError where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        if (folder / ADAPTER).is_file():
            read_config(folder / ADAPTER)  # which says what it adapts
        names = sorted(one.name for one in folder.iterdir() if one.is_file())
        others = [name for name in names if name.endswith((".gguf", ".json"))]
        others.sort(key=lambda name: name.endswith(".json"))  # weights of another kind say more
        beside = f" (it has {', '.join(others[:3])})" if others else ""
        raise ModelError(f"{folder} has no {CONFIG}{beside}; give the folder of a Hugging Face model")
    return path


def _named_after(path: Path) -> str:
    """What a model is called whose file has no name in it: after its folder, or after the file."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == CONFIG and resolved.parent.name else resolved.stem


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a configuration, read as Python reads JSON: such files may hold Infinity.

    Raises:
        ModelError: it is something else; says what.
        OSError: it cannot be opened.
    """
    with open(regular(path), "rb") as file:
        data = file.read(LINE_LIMIT + 1)
    if wrong := _foreign(data):
        raise ModelError(f"{path} {wrong}")
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ModelError(f"{path} is no text; give the config.json of the model") from None
    except (ValueError, RecursionError) as error:
        what = (
            str(error) if isinstance(error, json.JSONDecodeError) else "its numbers or brackets are too many"
        )
        raise ModelError(f"{path} is not JSON ({what}); download it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no object; give the config.json of a Hugging Face model")
    if wrong := _other_kind(found):
        raise ModelError(f"{path} {wrong}")
    return found


def _foreign(data: bytes) -> str:
    """What a file is that is no JSON, and the remedy; "" for what may be some."""
    head = data[:512].lstrip().lower()
    if len(data) > LINE_LIMIT:
        return f"holds more than {LINE_LIMIT:,} bytes, and is no config.json; give that of the model"
    if not head:
        return "is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS in place of the file; run `git lfs pull` there, or download the file"
    if head.startswith((b"<!doctype html", b"<html")):
        return "is a page of HTML, not the file; download it by its raw address (…/resolve/main/config.json)"
    if head.startswith(b"gguf"):
        return "is a GGUF file; give the config.json of the model that it was made from"
    if head.startswith((b"pk\x03\x04", b"\x80")) or b'"__metadata__"' in head or b'"dtype"' in data[8:200]:
        return "holds weights; give the config.json beside them"
    return ""


def _other_kind(found: dict[str, Any]) -> str:
    """What configuration it is, where it is not that of a model, and the remedy."""
    if "peft_type" in found or "base_model_name_or_path" in found:
        base = str(found.get("base_model_name_or_path") or "its base model")
        return f"is of an adapter, which keeps no cache of its own; give the config.json of {base[:120]}"
    if "_class_name" in found or "_diffusers_version" in found:
        return "is of a diffusion pipeline, which keeps no cache of tokens; give that of a language model"
    if "tokenizer_class" in found and "model_type" not in found:
        return "is of a tokenizer; give the config.json beside it"
    if {"dim", "n_layers", "n_kv_heads"} <= set(found):
        return "is in Mistral's own format (params.json); give the config.json of the same model"
    return ""


def weights_beside(path: Path) -> float:
    """10^9 bytes of the weights as they are stored, by the index of the checkpoint beside a config.json; 0
    where there is none, or where it cannot be read.
    """
    index = path.parent / INDEX
    if path.name != CONFIG or not index.is_file():
        return 0.0
    try:
        size = json.loads(index.read_bytes())["metadata"]["total_size"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0.0
    return size / 1e9 if isinstance(size, int | float) and 0 < size < 1e18 else 0.0
