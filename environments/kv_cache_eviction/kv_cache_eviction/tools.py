"""The four tools over MCP, for harnesses that bring their own loop.

One server is shared by all rollouts and knows nothing of any: a call has no effect and may be
repeated. What it really did is put into the dialogue at the model boundary
(`EvictionTask.put_in_answers`), from the record of what was decided."""

import verifiers.v1 as vf
from mcp.server.mcpserver import MCPServer

from kv_cache_rl.sim.eviction import TOOLS

STUB = "noted"


def on_sequence(seq_id: str) -> str:
    return STUB


def on_nothing() -> str:
    return STUB


class EvictionToolset(vf.Toolset[vf.SharedToolsetConfig]):
    TOOL_PREFIX = None

    def register(self, mcp: MCPServer) -> None:
        for tool in TOOLS:
            function = tool["function"]
            stub = on_sequence if "seq_id" in function["parameters"].get("properties", {}) else on_nothing
            mcp.add_tool(
                stub, name=function["name"], description=function["description"], structured_output=False
            )


if __name__ == "__main__":
    EvictionToolset.run()
