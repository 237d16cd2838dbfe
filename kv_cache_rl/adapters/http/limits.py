"""How much one server gives away before it says no: each limit is a line, and what it answers with."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows."""

    body_bytes: int = 256 * 1024
    """A request's body; more is 413."""
    trace_bytes: int = 8 * MIB
    """An uploaded trace; more is 413."""
    traces: int = 16
    """Uploaded traces at a time; more is 429."""
    body_seconds: float = 20.0
    """How long a client may take to send its request; longer is 408."""
    send_seconds: float = 30.0
    """How long a client may leave an answer unread before it is cut off."""
    connections: int = 1_024
    """Open connections; more get 503 from the server below."""
    sessions: int = 256
    """Sessions at a time; more is 429."""
    session_bytes: int = 256 * MIB
    """Memory of all sessions together; more is 429."""
    idle_s: float = 900.0
    """A session, or an uploaded trace, that is left alone for so long is gone."""
    ticks: int = 50_000
    """Nominal ticks of an episode; more is 422."""
    requests: int = 200_000
    """Requests that an episode may bring; more is 422."""
    rows: int = 200_000
    """Iterations of the engine that an answer logs; more is 422."""
    agents: int = 16
    """Agents of a batch; more is 422."""
    simulations: int = 4
    """Simulations that run at a time; others wait."""
    waiting: int = 256
    """Requests that wait for a place among these; more is 429."""
    streams: int = 64
    """Streams at a time; more is 429."""
    run_seconds: float = 60.0
    """How long a simulation may run; longer is 503."""
    jobs: int = 2
    """Processes of their own that run at a time: the oracle's plans, replays of traces."""
    job_bytes: int = 4 * 1024 * MIB
    """Address space of such a process."""
