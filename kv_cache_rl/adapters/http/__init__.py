"""The HTTP API: one server over all worlds, for programs, for boards and for the page.

    request --Guard--> route --settings, shapes--> simulation in a thread | job in a process --> JSON | events

Reading order: `limits`, `errors`, `guard`, `bodies`, `sse`; `settings`, `serving`, `episodes`, `runs`,
`trainings`, `replays`; `worlds`, `sessions`; `gates`, `jobs`, `metrics`, `lab`; `shapes`, the `routes_*`,
`app`; `server`, `warm`, `openapi`, `load`.
"""

from kv_cache_rl.extras import need

need("kv-cache-rl serve", "fastapi", "uvicorn", "prometheus_client", extra="serve")
