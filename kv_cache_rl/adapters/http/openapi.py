"""``python -m kv_cache_rl.adapters.http.openapi``: writes the description of the API, docs/openapi.yaml."""

import argparse
from pathlib import Path
from typing import Any

from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_whole

PLACE = Path("docs/openapi.yaml")
MADE_BY = f"# Made by: python -m {__spec__.name if __spec__ else __name__}\n"


def described() -> dict[str, Any]:
    """The description of a server with the usual limits."""
    return create_app().openapi()


def written() -> str:
    """The description as YAML."""
    need("writing YAML", "yaml")
    import yaml

    return MADE_BY + yaml.safe_dump(described(), sort_keys=False, allow_unicode=True, width=110)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PLACE, help=f"default: {PLACE}, in a checkout")
    path = parser.parse_args().out
    write_whole(path, written().encode())
    print(path)


if __name__ == "__main__":
    main()
