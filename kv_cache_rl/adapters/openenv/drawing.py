"""HTML for OpenEnv's web interface: in a frame of its own, so that its style changes nothing around it and
nothing in it is ever run.
"""

from html import escape

from kv_cache_rl.reports.stylesheet import STYLE

WIDTH, HEIGHT = 560, 620
"""Pixels: what the interface leaves on a wide screen; longer drawings scroll."""
FRAME = """
body{background:var(--card)}main{padding:6px 8px 20px}.card{padding:10px 12px}h3{margin:0 0 8px}
.facts{margin:0 0 12px;gap:6px 18px}th,td{padding:4px 7px}
.bar{display:grid;grid-template-columns:9.5em 1fr 11em;gap:10px;align-items:center;
margin:4px 0;font-size:13px}
.bar i{display:block;height:12px;border-radius:3px;background:var(--run)}.bar i.high{background:#e8833a}
.bar i.full{background:var(--bad)}.bar span{background:var(--rule);border-radius:3px}.bar b{font-weight:400}
"""
HIGH, FULL = 0.8, 0.95
"""Shares from which on a bar is drawn in another colour."""


def framed(body: str) -> str:
    """A body as a document inside a frame without scripts."""
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><style>{STYLE}{FRAME}</style></head>'
    )
    document += f"<body><main>{body}</main></body></html>"
    style = f"width:min({WIDTH}px,80vw);height:{HEIGHT}px;border:0;border-radius:8px"
    held = escape(document, quote=True)
    return f'<iframe sandbox="" title="the episode" style="{style}" srcdoc="{held}"></iframe>'


def bar(name: str, share: float, number: str) -> str:
    """One share of a whole, drawn and written."""
    klass = "full" if share > FULL else "high" if share > HIGH else ""
    width = 100 * min(max(share, 0.0), 1.0)
    fill = f'<span><i class="{klass}" style="width:{width:.1f}%"></i></span>'
    return f'<div class="bar"><b>{escape(name)}</b>{fill}<b>{escape(number)}</b></div>'
