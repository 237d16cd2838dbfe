"""The app that OpenEnv serves: ``server.app:app``, or the command ``server``."""

from functools import partial
from pathlib import Path

from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import ConcurrencyConfig

from kv_cache_rl.adapters.openenv.serving import app_of, serve
from kv_cache_serving_openenv.models import (
    KvCacheServingAction,
    KvCacheServingObservation,
    KvCacheServingState,
)
from kv_cache_serving_openenv.server.environment import NAME, KvCacheServingEnvironment

CLASSES = KvCacheServingEnvironment, KvCacheServingAction, KvCacheServingObservation
app = app_of(
    Path(__file__).parents[1],
    partial(create_app, *CLASSES, env_name=NAME, state_cls=KvCacheServingState),
    ConcurrencyConfig,
)


def main() -> None:
    """Serves the environment."""
    serve(app, __doc__ or "")


if __name__ == "__main__":
    main()
