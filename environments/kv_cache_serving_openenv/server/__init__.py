"""The server of the serving environment."""
