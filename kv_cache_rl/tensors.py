"""Tensors in a .safetensors file, read and written with nothing but numpy.

    8 bytes: length of the header, little-endian
    header:  JSON, name -> {"dtype", "shape", "data_offsets": [begin, end]}, and "__metadata__": text -> text
    tensors: one after the other

The library that this format comes from is not among what every installation has, and playing needs a few
thousand numbers once. Source: the format's page, https://huggingface.co/docs/safetensors."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import NotJson, json_value, regular

DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
METADATA = "__metadata__"
LENGTH, ALIGNED = 8, 8


class NotTensors(Refused):
    """Bytes that are no such file; the text says what is wrong with them."""


def write_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A file of float32 and float64 tensors: the same ones give the same bytes."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {METADATA: dict(metadata)}
    data = b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": [len(data), end]}
        data += tensor.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    return len(text).to_bytes(LENGTH, "little") + text + data


def tensors_at(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of a file, and its metadata, each of which is JSON.

    Raises:
        NotTensors: it cannot be read, as `read_tensors`, or a text of the metadata is no JSON.
    """
    try:
        tensors, metadata = read_tensors(regular(path).read_bytes())
        return tensors, {name: json_value(text) for name, text in metadata.items()}
    except OSError as error:
        raise NotTensors(error.strerror or str(error)) from None
    except (NotJson, TypeError, AttributeError) as error:
        raise NotTensors(str(error)) from None


def read_tensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file's bytes.

    Raises:
        NotTensors: it is no such file, is cut off, or holds another kind of number.
    """
    size = int.from_bytes(data[:LENGTH], "little")
    if len(data) < LENGTH or size > len(data) - LENGTH:
        raise NotTensors("is no .safetensors file, or was cut off")
    try:
        header = json_value(data[LENGTH : LENGTH + size])
    except NotJson as error:
        raise NotTensors(f"its header is damaged: {error}") from None
    if not isinstance(header, dict):
        raise NotTensors("its header is no JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict):
        raise NotTensors("its metadata is no JSON object")
    body = data[LENGTH + size :]
    return {name: _tensor(name, about, body) for name, about in header.items()}, metadata


def _tensor(name: str, about: Any, body: bytes) -> np.ndarray:
    try:
        dtype, shape, (begin, end) = DTYPES[about["dtype"]], about["shape"], about["data_offsets"]
        if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * dtype.itemsize:
            raise NotTensors(f"tensor {name!r} does not lie where the header says; the file was cut off")
        return np.frombuffer(body[begin:end], dtype).reshape(shape)
    except NotTensors:
        raise
    except (KeyError, TypeError, ValueError):
        raise NotTensors(
            f"tensor {name!r} is not described as float32 or float64 with a shape and offsets"
        ) from None
