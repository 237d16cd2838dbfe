// One episode: the memory map at every window, the calls and what came of them, the figures, the dialogue.
import { call, card, choice, facts, field, fill, fixed, h, percent, problem, query, signed, table, whole } from "/web/dom.js";
import { lostIn, memoryMap } from "/web/map.js";

const UNKNOWN = "This scenario is not one of the committed ones, so there are no figures of it and no decider can be asked what it would do.";

export async function open(room, chosen) {
  const found = await episodeOf(chosen);
  const { scenario, report, windows } = found;
  const known = found.committed ?? true;
  const map = memoryMap();
  const last = windows.length;
  const slider = h("input", { id: "window", type: "range", min: 1, max: last, step: 1, value: Math.min(+(chosen.window ?? 1) || 1, last), ariaLabel: "Window" });
  const number = h("strong", {});
  const detail = h("div", { id: "calls" });
  const advice = h("div", { id: "advice" });
  const by = chosen.run ? `${found.model}, run ${found.run}` : chosen.policy ?? "lru";

  const { policies, oracle } = await call("/api/eviction/policies");
  const advisor = choice([oracle, ...policies], oracle, { id: "advisor" });
  const ask = h("button", { type: "button", id: "ask", onclick: consult }, "What would it do here?");

  function show() {
    const at = +slider.value - 1;
    const one = windows[at];
    number.textContent = `window ${at + 1} of ${last}`;
    map.show(one, lostIn(one.record));
    fill(detail, windowFacts(one), callsTable(one.record));
    fill(advice);
    const shown = { ...chosen, window: at + 1 };
    history.replaceState(null, "", `#/episode?${query(shown)}`);
  }

  async function consult() {
    ask.disabled = true;
    try {
      const one = await adviceAt(scenario.id, found.log, +slider.value - 1, advisor.value);
      const calls = one.calls.map((wanted) => `${wanted.name} ${wanted.arguments.seq_id ?? ""}`.trim());
      fill(advice, h("p", {}, h("strong", {}, `${advisor.value}: `), calls.join(", ") || "keep"),
        one.followed ? null : h("p", { class: "note" }, "The episode has left the oracle's path; its calls may not fit here."));
    } catch (error) {
      fill(advice, problem(error));
    }
    ask.disabled = false;
  }

  slider.addEventListener("input", show);
  const move = (event) => {
    if (event.target.closest("input, select, textarea, .wide, pre")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    slider.value = +slider.value + step;
    show();
    event.preventDefault();
  };
  addEventListener("keydown", move);

  const figures = h("div", {});
  fill(room,
    h("h1", {}, scenario.id),
    h("p", { class: "lead" }, `Decided by ${by}.`),
    facts({
      reward: signed(4)(report.total), normalised: h("span", { id: "normalised" }, signed(3)(report.normalized)), floor: signed(4)(scenario.floor), oracle: signed(4)(scenario.best),
      "failed requests": whole(report.metrics.total_failures_metric), "tokens served": whole(report.metrics.total_tokens_metric),
      "calls a window": fixed(2)(report.metrics.calls_per_step), "refused calls": whole(report.metrics.invalid_calls),
      model: scenario.model,
    }),
    h("p", { class: "note" }, report.diagnosis),
    card(h("div", { class: "scrub" }, number, slider, h("span", { class: "note" }, h("kbd", {}, "←"), " ", h("kbd", {}, "→"))), map.element),
    card(h("h2", { class: "first" }, "In this window"), detail,
      known ? h("div", { class: "fields" }, field("Ask", advisor), ask) : h("p", { class: "note", id: "unknown" }, UNKNOWN), advice),
    figures,
    dialogue(found));
  queueMicrotask(() => requestAnimationFrame(show));
  if (known) drawn(scenario.id, found.log).then((all) => fill(figures, all), (error) => fill(figures, problem(error)));
  return () => { removeEventListener("keydown", move); map.close(); };
}

function episodeOf(chosen) {
  if (chosen.run) return call(`/api/eviction/runs/${encodeURIComponent(chosen.run)}/episode?${query({ model: chosen.model, scenario: chosen.scenario })}`);
  return call("/api/eviction/episodes", { body: { scenario: chosen.scenario, policy: chosen.policy ?? "lru", dialogue: true } });
}

export function windowFacts(one) {
  const { record } = one;
  if (!record) return null;
  return facts({
    "memory, peak": percent(record.usage_peak), "GPU pages": `${whole(one.memory.gpu_used)} of ${whole(one.memory.budget_pages)}`,
    "CPU pages": `${whole(one.memory.cpu_used)} of ${whole(one.memory.cpu_pages)}`, queue: whole(record.queue),
    tokens: whole(record.tokens), "waited for the link and prefill": `${fixed(1)(record.latency_s)} s`,
    "link busy": percent(record.link_busy), "prefill busy": percent(record.prefill_busy),
    arrived: record.arrivals.length, completed: record.completions.length, failed: record.failures.length,
    "reward so far": signed(4)(one.total),
  });
}

export function callsTable(record) {
  if (!record) return null;
  const rows = [
    ...record.calls.map((one) => ({ what: `${one.verb} ${one.seq_id ?? ""}`.trim(), text: one.text, bad: !one.ok })),
    ...record.failures.map((one) => ({ what: `failed ${one.seq_id}`, text: one.why, bad: true })),
  ];
  if (!rows.length) return h("p", {}, "No calls.");
  return table("Calls of the window, and failures", [
    { name: "call", text: true, value: (row) => h("span", { class: row.bad ? "bad" : "" }, row.what) },
    { name: "what came of it", text: true, value: (row) => h("span", { class: row.bad ? "bad" : "" }, row.text) },
  ], rows);
}

/** What a decider would do in window `at` of an episode: its calls are played again up to there. */
export async function adviceAt(scenario, log, at, policy) {
  const { session } = await call("/api/sessions", { body: { world: "eviction", scenario, view: "full" } });
  try {
    for (const words of log.slice(0, at)) {
      const calls = words.filter(([verb]) => verb !== "?").map(([verb, seq_id]) => ({ name: verb, arguments: seq_id === undefined ? {} : { seq_id } }));
      await call(`/api/sessions/${session}/step`, { body: { calls } });
    }
    return await call(`/api/sessions/${session}/advice?${query({ policy })}`);
  } finally {
    call(`/api/sessions/${session}`, { method: "DELETE" }).catch(() => {});
  }
}

/** The figures of the run's report, drawn by the same code. */
export async function drawn(scenario, log) {
  const { figures } = await call("/api/eviction/episodes", { body: { scenario, log, figures: true, dialogue: false } });
  const parser = new DOMParser();
  const cards = Object.entries(figures).map(([title, markup]) => {
    const read = parser.parseFromString(`<div>${markup}</div>`, "text/html").body.firstElementChild;
    return card(h("figure", { class: "chart" }, h("h3", {}, title), h("div", { class: "wide", tabIndex: 0, role: "region", ariaLabel: title }, [...read.childNodes])));
  });
  return h("div", {}, cards.slice(0, 2), h("div", { class: "grid2" }, cards.slice(2)));
}

function dialogue(found) {
  const turns = found.dialogue ?? [];
  if (!turns.length) return null;
  const usage = (turn) => turn.usage ? ` · ${whole(turn.usage.prompt_tokens)} tokens read, ${whole(turn.usage.completion_tokens)} written` : "";
  return card(h("details", {}, h("summary", {}, h("strong", {}, `The dialogue, ${turns.length} messages`)),
    turns.map((turn) => h("div", { class: `turn ${turn.role}` },
      h("span", { class: "note" }, `window ${turn.window ?? "-"} · ${turn.role}${usage(turn)}${turn.seconds ? ` · ${fixed(2)(turn.seconds)} s` : ""}`),
      turn.reasoning ? h("details", {}, h("summary", {}, "reasoning"), h("pre", { tabIndex: 0 }, turn.reasoning)) : null,
      turn.content ? h("pre", { tabIndex: 0 }, turn.content) : null,
      (turn.tool_calls ?? []).map((one) => h("pre", {}, spelt(one)))))));
}

function spelt(one) {
  const inner = one.function ?? one;
  const given = inner.arguments ?? "";
  return `${inner.name}(${typeof given === "string" ? given : JSON.stringify(given)})`;
}
