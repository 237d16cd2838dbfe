"""``python -m kv_cache_rl.reports.documents``: rewrites the marked regions of all documents of a checkout."""

import sys
from pathlib import Path

from kv_cache_rl.reports.documents.regions import pages, rewritten


def main(root: Path) -> None:
    """Rewrites every page whose regions differ from their results files, and names it."""
    if not (root / "results").is_dir():
        sys.exit(f"{root} has no folder results/; run this at the root of a checkout, or name the checkout")
    for path in pages(root):
        old = path.read_text(encoding="utf-8")
        new = rewritten(old, root)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"rewritten: {path.relative_to(root)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
