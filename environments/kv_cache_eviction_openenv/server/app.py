"""The app that OpenEnv serves: ``server.app:app``, or the command ``server``."""

from functools import partial
from pathlib import Path

from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import ConcurrencyConfig

from kv_cache_eviction_openenv.models import (
    KvCacheEvictionAction,
    KvCacheEvictionObservation,
    KvCacheEvictionState,
)
from kv_cache_eviction_openenv.server.environment import NAME, KvCacheEvictionEnvironment
from kv_cache_rl.adapters.openenv.serving import app_of, serve

CLASSES = KvCacheEvictionEnvironment, KvCacheEvictionAction, KvCacheEvictionObservation
app = app_of(
    Path(__file__).parents[1],
    partial(create_app, *CLASSES, env_name=NAME, state_cls=KvCacheEvictionState),
    ConcurrencyConfig,
)


def main() -> None:
    """Serves the environment."""
    serve(app, __doc__ or "")


if __name__ == "__main__":
    main()
