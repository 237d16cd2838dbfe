"""Models of today, with the source of each number: name → entry.

A model whose configuration could not be read anywhere is left out.
"""

from kv_cache_rl.models.catalogue import latent, meta_mistral, qwen, states, windows
from kv_cache_rl.models.catalogue.entry import SOURCES, Entry

__all__ = ["CATALOGUE", "SOURCES", "Entry"]

CATALOGUE: dict[str, Entry] = {
    entry.name: entry for family in (meta_mistral, qwen, latent, windows, states) for entry in family.ENTRIES
}
