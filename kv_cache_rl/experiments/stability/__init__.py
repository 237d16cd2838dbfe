"""Theory against simulation: where queues turn, the hysteresis loop of a service with caches, the controller
against thresholds.

Reading order: `runs` (the compiled loop), `workloads`, `boundary`, `rows`, `validation`; `hysteresis` and
`comparison` apart."""
