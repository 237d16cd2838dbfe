"""``traces``: what is in a trace file, and trace files in the project's own format."""

from kv_cache_rl.cli.traces import convert, show

COMMANDS = {"show": show.run_show, "convert": convert.run_convert}
