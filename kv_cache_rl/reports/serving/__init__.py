"""Tables of agents compared, and the timeline of an episode."""
