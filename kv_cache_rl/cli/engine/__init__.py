"""``engine``: a real engine beside the lab: recorded, compared, attached to, and led by the lab's policies."""

COMMANDS = {}
