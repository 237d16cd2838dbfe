// A person manages the cache with the tools that models have, by mouse or by keyboard alone.
import { call, card, choice, download, facts, field, fill, h, percent, problem, query, say, signed, table, whole } from "/web/dom.js";
import { COLUMNS, entriesOf, lostIn, memoryMap } from "/web/map.js";
import { callsTable, drawn, windowFacts } from "/web/episode.js";

const VERBS = { evict: "e", compress: "c", swap_to_cpu: "s" };
const AFTERWARDS = ["keep", "lru", "tuned", "learned", "oracle"];

export async function open(room, chosen) {
  let session = null;
  let state = null;
  let marks = new Map();
  let focus = null;
  const map = memoryMap((id) => { focus = id; draw(); rowOf(id)?.focus(); });
  const tier = choice(["easy", "medium", "hard"], chosen.tier ?? "easy", { id: "tier", onchange: refill });
  const scenario = choice([], "", { id: "scenario" });
  const said = h("div", {});
  const board = h("div", { id: "board" });

  async function refill() {
    const found = await call(`/api/eviction/scenarios?${query({ difficulty: tier.value, split: "train" })}`);
    fill(scenario, found.scenarios.map((one) => h("option", { value: one.id, selected: one.id === chosen.scenario }, one.id)));
  }
  await refill();

  async function begin(event) {
    event?.preventDefault();
    forget();
    fill(said);
    try {
      state = await call("/api/sessions", { body: { world: "eviction", scenario: scenario.value, view: "full" } });
      session = state.session;
      marks = new Map();
      focus = null;
      history.replaceState(null, "", `#/play?${query({ tier: tier.value, scenario: scenario.value })}`);
      draw();
      say(`window 1 of ${state.scenario.windows}`);
      board.querySelector("#entries tbody tr")?.focus();
    } catch (error) {
      fill(said, problem(error));
    }
  }

  /** The entries that can be named: those on the GPU first, the largest first. */
  const shown = () => entriesOf(state).filter((row) => row.place !== "none" || row.pages)
    .sort((a, b) => (a.place === "gpu" ? 0 : 1) - (b.place === "gpu" ? 0 : 1) || b.pages - a.pages);
  const rowOf = (id) => [...board.querySelectorAll("tbody tr")].find((row) => row.dataset.id === id);

  function mark(id, verb) {
    if (marks.get(id) === verb) marks.delete(id);
    else marks.set(id, verb);
    focus = id;
    draw();
    rowOf(id)?.focus();
    say(marks.has(id) ? `${verb} ${id}` : `${id} stays as it is`);
  }

  function draw() {
    if (state.done) return void end();
    const { scenario: about, observation, memory } = state;
    const usage = observation.memory_usage;
    const listed = [...marks].map(([id, verb]) => `${verb} ${id}`);
    const columns = [...COLUMNS, {
      name: "your call", text: true, value: (row) => h("span", { class: "verbs" }, Object.entries(VERBS).map(([verb, key]) =>
        h("button", { type: "button", tabIndex: -1, ariaPressed: String(marks.get(row.id) === verb), ariaLabel: `${verb} ${row.id}`, title: `key ${key}`, onclick: () => mark(row.id, verb) }, verb === "swap_to_cpu" ? "swap" : verb))),
    }];
    const rows = shown().map((row, at) => ({ ...row, attributes: { "data-id": row.id, tabIndex: (focus ? row.id === focus : at === 0) ? 0 : -1, class: marks.has(row.id) ? "marked" : "", onfocus: () => { focus = row.id; map.show(state, [], row.id); } } }));
    const before = state.timeline.at(-1);
    fill(board,
      card(facts({
        window: h("strong", { id: "at" }, `${state.window} of ${about.windows}`),
        "memory in use": h("span", { class: usage > observation.memory_budget ? "bad" : "" }, `${percent(usage)} of the GPU, budget ${percent(observation.memory_budget)}`),
        "GPU pages": `${whole(memory.gpu_used)} of ${whole(memory.budget_pages)}`, "CPU pages": `${whole(memory.cpu_used)} of ${whole(memory.cpu_pages)}`,
        "waiting": `${whole(observation.pending_summary.queued)} requests, ${whole(observation.pending_summary.pages_needed)} pages`,
        "link, pages a window": whole(observation.pages.link_per_window),
      }),
      h("p", {}, h("strong", {}, "Your calls: "), listed.join(", ") || "keep (nothing)"),
      h("div", { class: "actions" }, h("button", { id: "go", class: "go", type: "button", onclick: step }, "Play the window"),
        h("button", { type: "button", id: "hint", onclick: hint }, "What would learned do?"),
        h("span", { class: "note" }, h("kbd", {}, "↑"), h("kbd", {}, "↓"), " entry, ", h("kbd", {}, "e"), " evict, ", h("kbd", {}, "c"), " compress, ", h("kbd", {}, "s"), " swap, ", h("kbd", {}, "Enter"), " play the window")),
      h("p", { id: "hinted", class: "note" })),
      before ? card(h("h2", { class: "first" }, "The window before"), windowFacts({ record: before, memory, total: null }), callsTable(before)) : null,
      h("div", { class: "grid2" },
        card(h("div", { onkeydown: keys }, table("Entries of the cache", columns, rows, { id: "entries" }))),
        card(map.element)));
    map.show(state, lostIn(before), focus);
  }

  function keys(event) {
    const row = event.target.closest("tr[data-id]");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (next && row[next]) {
      row.tabIndex = -1;
      row[next].tabIndex = 0;
      row[next].focus();
      event.preventDefault();
    }
    const verb = Object.keys(VERBS).find((name) => VERBS[name] === event.key);
    if (verb) mark(row.dataset.id, verb);
    if (event.key === "Enter" && event.target === row) step();
  }

  async function step() {
    const calls = [...marks].map(([seq_id, name]) => ({ name, arguments: { seq_id } }));
    board.querySelector("#go").disabled = true;
    try {
      state = await call(`/api/sessions/${session}/step`, { body: { calls } });
      marks = new Map();
      if (!shown().some((row) => row.id === focus)) focus = null;
      draw();
      if (!state.done) {
        say(`window ${state.window} of ${state.scenario.windows}, memory ${percent(state.observation.memory_usage)}`);
        (rowOf(focus) ?? board.querySelector("#entries tbody tr"))?.focus();
      }
    } catch (error) {
      fill(said, problem(error));
      board.querySelector("#go").disabled = false;
    }
  }

  async function hint() {
    try {
      const found = await call(`/api/sessions/${session}/advice?policy=learned`);
      const calls = found.calls.map((one) => `${one.name} ${one.arguments.seq_id ?? ""}`.trim());
      fill(board.querySelector("#hinted"), `learned: ${calls.join(", ") || "keep"}`);
      say(board.querySelector("#hinted").textContent);
    } catch (error) {
      fill(said, problem(error));
    }
  }

  /** The end: your score beside those of others on the same scenario. */
  async function end() {
    const { report, log, scenario: about } = state;
    const mine = { name: "you", reward: report.total, normalized: report.normalized, failures: report.metrics.total_failures_metric };
    const rows = [mine, { name: "floor", reward: about.floor, normalized: 0, failures: null }];
    const compared = h("div", {});
    const columns = [
      { name: "decided by", text: true, value: (row) => row.name === "you" ? h("strong", {}, "you") : row.name },
      { name: "reward", value: (row) => signed(4)(row.reward) },
      { name: "normalised", value: (row) => row.name === "you" ? h("strong", { id: "score" }, signed(3)(row.normalized)) : signed(3)(row.normalized) },
      { name: "failed requests", value: (row) => whole(row.failures) },
    ];
    const write = () => fill(compared, table("Scores on this scenario", columns, [...rows].sort((a, b) => b.reward - a.reward), { id: "scores" }));
    const figures = h("div", {});
    fill(board,
      card(h("h2", { class: "first" }, `Normalised ${signed(3)(report.normalized)}`), h("p", {}, report.diagnosis), compared,
        h("div", { class: "actions" },
          h("button", { type: "button", class: "go", onclick: begin }, "Play again"),
          h("button", { type: "button", onclick: () => download(`${about.id}.json`, JSON.stringify({ scenario: about.id, log }), "application/json") }, "Download the calls"))),
      figures);
    write();
    say(`the episode is over: normalised ${signed(3)(report.normalized)}`);
    drawn(about.id, log).then((all) => fill(figures, all), () => {});
    for (const policy of AFTERWARDS) {
      const found = await call("/api/eviction/episodes", { body: { scenario: about.id, policy, dialogue: false } }).catch(() => null);
      if (!found) continue;
      rows.push({ name: policy, reward: found.report.total, normalized: found.report.normalized, failures: found.report.metrics.total_failures_metric });
      write();
    }
  }

  function forget() {
    if (session) call(`/api/sessions/${session}`, { method: "DELETE" }).catch(() => {});
    session = null;
  }

  fill(room,
    h("h1", {}, "Play it yourself"),
    h("p", { class: "lead" }, "Fifteen windows of two seconds. Keep the memory under its budget, and fail as few requests as you can."),
    card(h("form", { class: "fields", onsubmit: begin }, field("Tier", tier), field("Scenario", scenario), h("button", { class: "go", type: "submit", id: "begin" }, "Begin")), said,
      h("details", {}, h("summary", {}, "The rules in short"), h("ul", {},
        h("li", {}, h("strong", {}, "evict"), ": it is gone. What runs goes back to the queue; what is needed later is computed again, or fails."),
        h("li", {}, h("strong", {}, "compress"), ": 16 to 8 to 4 bits. It takes a half of the pages; at 4 bits answers suffer."),
        h("li", {}, h("strong", {}, "swap"), ": it moves to the CPU over a link that is slow, and comes back when it is needed."),
        h("li", {}, "What is kept stays. Running work grows by itself.")))),
    board);
  return () => { forget(); map.close(); };
}
