"""The page's style sheet and its few lines of script; everything is inline, so the page opens offline."""

SERIES = """
.fill-system{fill:#4e79a7;background:#4e79a7}.fill-context{fill:#76b7b2;background:#76b7b2}
.fill-tool_result{fill:#59a14f;background:#59a14f}.fill-generation{fill:#edc948;background:#edc948}
.fill-reasoning{fill:#b07aa1;background:#b07aa1}.fill-ephemeral{fill:#a8a29e;background:#a8a29e}
.fill-queue{fill:#9c755f;background:#9c755f}.fill-tokens{fill:#5b8ff9;background:#5b8ff9}
.fill-run{fill:var(--run);background:var(--run)}.fill-oracle{fill:var(--oracle);background:var(--oracle)}
.fill-floor{fill:var(--floor);background:var(--floor)}
.evict{fill:#e8833a}.compress{fill:#b07aa1}.swap_to_cpu{fill:#4e79a7}.refused{fill:#8a8f98}
.arrivals{fill:#76b7b2}.completions{fill:#59a14f}.failures{fill:var(--bad)}
"""

STYLE = (
    """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1c2330;--soft:#5c6675;--rule:#e1e5ea;
--strong:#8b95a3;
--run:#2563eb;--oracle:#0f9d74;--floor:#a3abb8;--bad:#d63b3b}
@media (prefers-color-scheme:dark){:root{--page:#0f131a;--card:#171c25;--ink:#e5e9f0;--soft:#9aa5b5;
--rule:#2a3240;
--strong:#66728a;--run:#6ea0ff;--oracle:#3ecf9f;--floor:#727d90;--bad:#ff6b6b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;margin:40px 0 10px}h3{font-size:14px;margin:0 0 6px;font-weight:600}
p{margin:0 0 10px;max-width:75ch}.lead,.note{color:var(--soft)}.note{font-size:13px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px;
margin:0 0 14px}
.facts{display:flex;flex-wrap:wrap;gap:6px 26px;margin:14px 0 0;padding:0}.facts div{min-width:90px}
.facts dt{font-size:12px;color:var(--soft)}.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.scroll{position:relative}.scroll>div{overflow-x:auto}
.scroll.more::after{content:"";position:absolute;top:22px;right:0;bottom:0;width:26px;pointer-events:none;
background:linear-gradient(to right,transparent,var(--card))}
.scroll.more::before{content:"scroll sideways \\2192";display:block;text-align:right;font-size:12px;
color:var(--run);padding:0 2px 3px 0}
.on-phone{display:none}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
font-size:13.5px}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--soft);font-size:12.5px}th.text,td.text{text-align:left}
tr.reference td{color:var(--soft)}tr.first td{border-top:2px solid var(--strong)}
tr.failed td:nth-child(4){color:var(--bad);font-weight:700}
td.wrap{white-space:normal;min-width:22em}td.bad{color:var(--bad)}
svg{display:block;width:100%;height:auto;overflow:visible;font-family:inherit}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:0 24px}
figure{margin:18px 0 0}
text{fill:var(--ink);font-size:11px}.tick,.unit,.level{fill:var(--soft)}.tick{font-size:10.5px}
.unit{font-size:11px}
.level{font-size:10.5px}.lane{font-size:12px}.strong{font-weight:700}.count{fill:#fff;font-size:10px;
font-weight:700;pointer-events:none}
.value{font-size:10px;fill:var(--soft);font-variant-numeric:tabular-nums}.value.run{fill:var(--ink);
font-weight:700}
.grid{stroke:var(--rule)}.axis{stroke:var(--strong)}.budget{stroke:var(--bad);stroke-width:1.5}
.soft{stroke:var(--bad);stroke-dasharray:2 4;opacity:.7}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}.peak-line{stroke:var(--ink)}
polyline.oracle-line{stroke:var(--oracle);stroke-dasharray:6 4}line.oracle-line{stroke:var(--oracle);
stroke-width:2.5}.link-line{stroke:#4e79a7}.prefill-line{stroke:#e8833a}
.link-dot{fill:#4e79a7}.prefill-dot{fill:#e8833a}.peak{fill:var(--ink);stroke:var(--card);
stroke-width:1.2}.peak.over{fill:var(--bad)}
.scale{stroke:var(--strong);stroke-width:4;stroke-linecap:round;opacity:.45}
.end-floor{stroke:var(--floor);stroke-width:3}.end-oracle{stroke:var(--oracle);stroke-width:3}
circle.mean.run{fill:var(--run)}circle.mean.oracle{fill:var(--oracle)}circle.mean.floor{fill:var(--floor)}
.whisker{stroke-width:3;stroke-linecap:round;opacity:.5}line.whisker.run{stroke:var(--run)}
line.whisker.oracle{stroke:var(--oracle)}line.whisker.floor{stroke:var(--floor)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12px;color:var(--soft);margin:6px 0 0}
.swatch{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-1px}
.line-peak,.line-oracle,.line-soft,.line-link,.line-prefill{height:0;border-top:2.5px solid var(--ink);
border-radius:0;width:16px;vertical-align:4px}
.line-oracle{border-top:2.5px dashed var(--oracle)}.line-soft{border-top:2px dotted var(--bad)}
.line-link{border-top-color:#4e79a7}.line-prefill{border-top-color:#e8833a}
.filters{display:flex;flex-wrap:wrap;gap:14px;align-items:center;margin:0 0 12px;font-size:13.5px}
select{font:inherit;padding:3px 8px;border:1px solid var(--rule);border-radius:6px;background:var(--card);
color:var(--ink)}
details.episode{padding:0}details.episode>summary{display:grid;
grid-template-columns:minmax(210px,1.3fr) minmax(110px,1fr) 210px 76px 76px 90px;
gap:12px;align-items:center;padding:10px 18px;cursor:pointer;list-style:none;
font-variant-numeric:tabular-nums}
details.episode>summary::-webkit-details-marker{display:none}
details.episode>summary b::before{content:"▸ ";color:var(--soft)}
details.episode[open]>summary b::before{content:"▾ "}details.episode>summary span{color:var(--soft);
text-align:right}
details.episode>summary span.text{text-align:left}details.episode>div{padding:4px 18px 18px;
border-top:1px solid var(--rule)}
details.steps{margin-top:18px}details.steps>summary{cursor:pointer;font-weight:600;font-size:14px}
.heads{display:grid;grid-template-columns:minmax(210px,1.3fr) minmax(110px,1fr) 210px 76px 76px 90px;
gap:12px;padding:0 19px 4px;
font-size:12px;color:var(--soft)}.heads span{text-align:right}.heads span.text{text-align:left}
@media (max-width:820px){
details.episode>summary,.heads{grid-template-columns:minmax(0,1fr) minmax(0,8em) 4em}
details.episode>summary b,details.episode>summary span{overflow-wrap:anywhere}
details.episode>summary>svg,.heads .wide,details.episode>summary .wide{display:none}}
@media (max-width:560px){main{padding:20px 12px 60px}h1{font-size:21px;overflow-wrap:anywhere}
.card,details.episode>summary,details.episode>div{padding-left:12px;padding-right:12px}
.heads{padding:0 13px 4px}
.on-screen{display:none}.on-phone{display:block}.scroll svg{width:720px}
table.results th:nth-child(2),table.results td:nth-child(2){position:sticky;left:0;background:var(--card);
box-shadow:inset 0 -1px var(--rule)}}
code{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:13px}
@media print{details.episode>div{display:block}.filters{display:none}}
"""
    + SERIES
)

SCRIPT = """
for (const box of document.querySelectorAll(".scroll")) {
  const inner = box.firstElementChild;
  const look = () => box.classList.toggle("more",
    inner.scrollLeft + inner.clientWidth < inner.scrollWidth - 2);
  inner.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(inner);
}
for (const select of document.querySelectorAll(".filters select")) select.addEventListener("change", () => {
  const tier = document.getElementById("tier").value, model = document.getElementById("model").value;
  for (const episode of document.querySelectorAll("details.episode"))
    episode.hidden = (tier && episode.dataset.tier !== tier) || (model && episode.dataset.model !== model);
});
"""
