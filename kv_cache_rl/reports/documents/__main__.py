"""``python -m kv_cache_rl.reports.documents``: rewrites the marked regions of all documents of a checkout,
and copies their figures.
"""

import sys
from pathlib import Path

from kv_cache_rl.reports.documents.figures import FIGURES
from kv_cache_rl.reports.documents.regions import pages, rewritten


def main(root: Path) -> None:
    """Rewrites every page and figure that differs from its results files, and names it."""
    if not (root / "results").is_dir():
        sys.exit(f"{root} has no folder results/; run this at the root of a checkout, or name the checkout")
    new = {path: rewritten(path.read_text(encoding="utf-8"), root).encode() for path in pages(root)}
    new |= {
        root / "docs/images" / name: (root / "results" / file).read_bytes() for name, file in FIGURES.items()
    }
    for path, content in new.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"written: {path.relative_to(root)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
