"""The app that OpenEnv serves: ``server.app:app``, or the command ``server``."""

from pathlib import Path

from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import ConcurrencyConfig

from kv_cache_eviction_openenv.models import (
    KvCacheEvictionAction,
    KvCacheEvictionObservation,
    KvCacheEvictionState,
)
from kv_cache_eviction_openenv.server.environment import NAME, KvCacheEvictionEnvironment
from kv_cache_rl.adapters.openenv.serving import IDLE_S, SESSIONS, finished, readme_of, serve, setting

readme_of(Path(__file__).parents[1])
app = finished(
    create_app(
        KvCacheEvictionEnvironment,
        KvCacheEvictionAction,
        KvCacheEvictionObservation,
        env_name=NAME,
        state_cls=KvCacheEvictionState,
        concurrency_config=ConcurrencyConfig(
            max_concurrent_envs=setting(SESSIONS), session_timeout=setting(IDLE_S)
        ),
    )
)


def main() -> None:
    """Serves the environment."""
    serve(app, __doc__ or "")


if __name__ == "__main__":
    main()
