"""Stages both OpenEnv packages, each with the wheel of kv-cache-rl in it, for docker build and openenv push.

python environments/openenv/stage.py
cd dist/openenv/kv_cache_eviction_openenv
docker build -f server/Dockerfile .
openenv push
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parents[1]
PACKAGES = ("kv_cache_eviction_openenv", "kv_cache_serving_openenv")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")

sys.path.insert(0, str(ENVIRONMENTS / "kv_cache_eviction"))

from hub import ROOT, wheel_of  # noqa: E402


def stage(folder: Path) -> list[Path]:
    """Writes the staged packages into a folder, which it makes anew."""
    shutil.rmtree(folder, ignore_errors=True)
    staged = [folder / name for name in PACKAGES]
    with tempfile.TemporaryDirectory() as scratch:
        wheel = wheel_of(ROOT, Path(scratch))
        for package in staged:
            shutil.copytree(ENVIRONMENTS / package.name, package, ignore=LEFT_OUT)
            (package / "wheels").mkdir()
            shutil.copy(wheel, package / "wheels")
    return staged


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist" / "openenv", help="the staged folder (is overwritten)"
    )
    for package in stage(parser.parse_args().out):
        print(f"staged {package}; build it with docker build, publish it with: openenv push {package}")


if __name__ == "__main__":
    main()
