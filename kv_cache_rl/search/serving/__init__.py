"""The oracle of the serving world: it steps copies of a server."""
