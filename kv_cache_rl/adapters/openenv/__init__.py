"""What the two OpenEnv packages have in common, and the grader of their servers; only they import `openenv`.

    client --/ws--> Gate --> OpenEnv's server --> the package's environment --> the world

Reading order: `tasks`, `episodes`, `words`, `drawing`, `gate`, `serving`; the grader: `socket`, `plays`,
`checks`, `grade`.
"""

from kv_cache_rl.extras import need

need("the OpenEnv packages", "fastapi", "uvicorn", "prometheus_client", extra="serve")
