"""Stages a Hugging Face Space: the files that its image is made of, under the front matter that it needs.

    python deploy/space.py                       # the page and the API, in dist/space
    python deploy/space.py --training            # the Space that trains, in dist/space-training
    hf upload OWNER/kv-cache-rl dist/space --repo-type space

The folder holds what the Dockerfile copies and nothing else. A Space builds its Dockerfile to the last stage,
so the one that trains has both Dockerfiles in one file."""

import argparse
import shutil
from pathlib import Path

from dockerfile import ROOT, SERVER, TRAINING, Wrong, copied, faults, steps_of

README = "README.md"


def stage(folder: Path, training: bool = False) -> Path:
    """Writes the folder of a Space.

    Raises:
        Wrong: a Dockerfile names what is not there or is unsound, or the folder holds something else.
    """
    paths = TRAINING if training else SERVER
    steps = steps_of(*paths)
    if found := faults(steps):
        raise Wrong("\n".join(found))
    if folder.exists() and not (folder / "Dockerfile").is_file() and any(folder.iterdir()):
        raise Wrong(f"{folder} holds something else, which this would delete; give another --out")
    shutil.rmtree(folder, ignore_errors=True)
    for name in {name for names in copied(steps).values() for name in names}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / ".dockerignore", folder)
    (folder / "Dockerfile").write_text("\n".join(path.read_text() for path in paths))
    shutil.copy(ROOT / "deploy" / "spaces" / ("training.md" if training else "server.md"), folder / README)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", action="store_true", help="the Space that trains")
    parser.add_argument("--out", type=Path, help="the staged folder; default: in dist/")
    options = parser.parse_args()
    folder = options.out or ROOT / "dist" / ("space-training" if options.training else "space")
    try:
        stage(folder, options.training)
    except (Wrong, OSError) as wrong:
        raise SystemExit(f"error: {wrong}") from None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    publish = f"hf upload OWNER/NAME {folder} --repo-type space"
    print(f"staged {folder}, {size / 1e6:.1f} MB; publish it with: {publish}")


if __name__ == "__main__":
    main()
