// The serving dashboard: agents run the same server, and their ticks stream in.
import { boxes, call, card, choice, facts, field, fill, fixed, h, percent, problem, query, say, signed, table, whole } from "/web/dom.js";
import { chart, charts, colourOf } from "/web/charts.js";

const MOST_LINES = 200;
const CHARTS = [
  ["Cumulative reward", "total_reward"],
  ["GPU blocks in use", "gpu_utilization", percent],
  ["Free queue", "free_queue"],
  ["VIP queue", "vip_queue"],
  ["Requests completed", "completed"],
  ["Preemptions by the engine", "preemptions"],
];
const COUNTS = ["arrived", "completed", "dropped", "rejected", "preemptions", "tokens"];

export async function open(room, chosen) {
  const [known, settings] = await Promise.all([call("/api/agents"), call("/api/settings")]);
  const names = known.agents.map((one) => one.name);
  const asked = (chosen.agents ?? "lru,stability,qlearning").split(",").filter((name) => names.includes(name));
  let run = null;

  const task = choice(known.tasks, chosen.task ?? "medium", { id: "task" });
  const seed = number("seed", chosen.seed ?? 0, { min: 0 });
  const ticks = number("ticks", chosen.ticks ?? "", { ...settings.schema.ticks, placeholder: "the task's own" });
  const blocks = number("gpu_blocks", chosen.gpu_blocks ?? "", { ...settings.schema.gpu_blocks, placeholder: "10000" });
  const tokens = number("block_tokens", chosen.block_tokens ?? "", { ...settings.schema.block_tokens, placeholder: "16" });
  const pace = choice([["0", "as fast as it comes"], ["20", "20 ms a batch"], ["50", "50 ms a batch"], ["200", "slowly"]],
    chosen.pace ?? "20", { id: "pace" });
  const agents = boxes("Agents", names, asked);
  const start = h("button", { id: "start", type: "submit", class: "go" }, "Start");
  const cancel = h("button", { id: "cancel", type: "button", disabled: true, onclick: () => stop("cancelled") }, "Cancel");
  const progress = h("progress", { id: "progress", max: 1, value: 0, ariaLabel: "Ticks played" });
  const said = h("div", {});
  const results = h("div", { id: "results" });
  fill(room,
    h("h1", {}, "Serving"),
    h("p", { class: "lead" }, "A server with GPU and CPU blocks, two queues and one load. Every agent meets the same requests."),
    card(h("form", { class: "form", onsubmit: begin },
      h("div", { class: "fields" },
        field("Task", task), field("Seed", seed), field("Ticks", ticks, "nominal"), field("GPU blocks", blocks),
        field("Tokens per block", tokens), field("Pace", pace)),
      agents, h("div", { class: "actions" }, start, cancel, progress)), said),
    results);

  function number(name, value, { minimum, maximum, placeholder, min }) {
    return h("input", { id: name, type: "number", step: 1, min: minimum ?? min, max: maximum, value, placeholder });
  }

  function begin(event) {
    event?.preventDefault();
    stop();
    const list = agents.chosen();
    if (!list.length) return void fill(said, problem(new Error("Choose at least one agent.")));
    const own = {};
    if (blocks.value) own.gpu_blocks = +blocks.value;
    if (tokens.value) own.block_tokens = +tokens.value;
    const shown = query({ task: task.value, agents: list.join(","), seed: seed.value, ticks: ticks.value,
      gpu_blocks: blocks.value, block_tokens: tokens.value, pace: pace.value });
    history.replaceState(null, "", `#/serving?${shown}&go=1`);
    fill(said);
    const ask = new URLSearchParams({ task: task.value, seed: seed.value || 0, batch: 100, pace_ms: pace.value,
      settings: JSON.stringify(own) });
    if (ticks.value) ask.set("ticks", ticks.value);
    for (const name of list) ask.append("agent", name);
    run = new Run(results, list, known, ask, { done: finished, failed: (error) => { fill(said, problem(error)); finished(); }, progress });
    start.disabled = true;
    cancel.disabled = false;
    say(`${list.join(", ")} play the ${task.value} task`);
  }

  function finished() {
    start.disabled = false;
    cancel.disabled = true;
  }

  function stop(words) {
    run?.close(words);
    finished();
  }

  if (chosen.go) queueMicrotask(() => setTimeout(begin));
  return () => stop();
}

class Run {
  constructor(place, names, known, ask, { done, failed, progress }) {
    Object.assign(this, { names, known, done, failed, progress });
    this.columns = Object.fromEntries(names.map((name) => [name, {}]));
    this.ends = {};
    this.focus = names[0];
    this.lines = [];
    const series = names.map((name, at) => ({ name, colour: colourOf(at) }));
    this.charts = CHARTS.map(([title, column, value]) => ({ column, drawn: chart({ title, series, sync: "serving", value }) }));
    this.board = h("div", { id: "board" });
    this.panel = h("div", { id: "focus" });
    this.traffic = h("div", {});
    this.log = h("div", { class: "log", role: "log", ariaLive: "off", tabIndex: 0, ariaLabel: "Live log" });
    const pick = choice(names, this.focus, { id: "agent", onchange: (event) => { this.focus = event.target.value; this.tell(); } });
    fill(place,
      card(h("h2", { class: "first" }, "Agents"), this.board),
      charts(this.charts.map((one) => one.drawn)),
      h("div", { class: "grid2" },
        card(h("h2", { class: "first" }, "One agent"), field("Agent", pick), this.panel),
        card(h("h2", { class: "first" }, "Traffic"), this.traffic)),
      card(h("h2", { class: "first" }, "Log"), this.log));
    this.tell();
    this.started = performance.now();
    this.source = new EventSource(`/api/simulate/stream?${ask}`);
    const on = (name, act) => this.source.addEventListener(name, (event) => act(event.data ? JSON.parse(event.data) : {}));
    on("start", (found) => this.begin(found));
    on("ticks", (found) => this.take(found));
    on("end", (found) => this.end(found));
    on("done", () => this.close("done"));
    this.source.addEventListener("error", (event) => {
      if (event.data) this.fail(new Error(JSON.parse(event.data).message));
      else if (this.source.readyState === EventSource.CLOSED) this.refused(ask);
    });
  }

  /** The words of a call that was refused: a stream does not tell them, the same call does. */
  async refused(ask) {
    const again = new AbortController();
    try {
      const answer = await fetch(`/api/simulate/stream?${ask}`, { signal: again.signal });
      const found = answer.ok ? {} : await answer.json().catch(() => ({}));
      const ended = "The server ended the stream; it may be busy. Start again in a moment.";
      this.fail(new Error(found.error?.message ?? (answer.ok ? ended : `The server answers with status ${answer.status}.`)));
    } catch {
      this.fail(new Error("The server does not answer; is kv-cache-rl serve still running?"));
    } finally {
      again.abort();
    }
  }

  fail(error) {
    this.close("failed");
    this.failed(error);
  }

  begin(found) {
    this.expected = found.traffic.seconds;
    this.sla = [found.settings.sla_free, found.settings.sla_vip];
    this.tick_s = found.traffic.tick_s;
    const traffic = found.traffic;
    fill(this.traffic, facts({
      "requests": whole(traffic.requests), "ρ, mean load": fixed(2)(traffic.rho),
      "arrivals per second": fixed(2)(traffic.arrival_rate_per_s), "served per second": fixed(2)(traffic.service_rate_per_s),
      "what binds": traffic.binding, "nominal tick": `${fixed(1)(1000 * traffic.tick_s)} ms`,
      "mean prompt": `${whole(traffic.mean_prompt)} tokens`, "mean output": `${whole(traffic.mean_output)} tokens`,
      "pattern": found.settings.pattern, "SLA Free, VIP": this.sla.map((one) => one ?? "none").join(", "),
    }), traffic.notes.map((note) => h("p", { class: "note" }, note)));
  }

  take({ agent, columns }) {
    const mine = this.columns[agent];
    const before = (mine.tick ?? []).length;
    for (const [name, values] of Object.entries(columns)) {
      mine[name] ??= [];
      for (const value of values) mine[name].push(value);
    }
    this.note(agent, mine, before);
    const clock = Math.min(...this.names.map((name) => this.columns[name].clock_s?.at(-1) ?? 0));
    this.progress.value = this.expected ? Math.min(clock / this.expected, 1) : 0;
    this.soon();
  }

  end(found) {
    this.ends[found.agent] = found;
    this.soon();
  }

  /** Draws once a frame, however many batches came. */
  soon() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
  }

  draw() {
    const longest = this.names.map((name) => this.columns[name].tick ?? []).reduce((a, b) => (b.length > a.length ? b : a), []);
    for (const { column, drawn } of this.charts) drawn.show(longest, this.names.map((name) => this.columns[name][column] ?? []));
    this.tell();
  }

  tell() {
    const last = (name, column) => this.columns[name][column]?.at(-1) ?? null;
    fill(this.board, table("Agents now", [
      { name: "agent", text: true, value: (name) => h("span", {}, h("span", { class: "dot", style: `background:${colourOf(this.names.indexOf(name))}` }), name) },
      { name: "state", text: true, value: (name) => this.badge(name) },
      { name: "score", value: (name) => h("strong", { id: `score-${name}` }, fixed(4)(this.ends[name]?.session_logs.final_score)) },
      { name: "tick", value: (name) => whole(last(name, "tick")) },
      { name: "reward", value: (name) => signed(1)(last(name, "total_reward")) },
      { name: "GPU", value: (name) => percent(last(name, "gpu_utilization")) },
      ...COUNTS.map((column) => ({ name: column, value: (name) => whole(last(name, column)) })),
    ], this.names, { id: "agents" }));
    this.look(last);
  }

  badge(name) {
    const end = this.ends[name];
    const words = end ? end.session_logs.outcome : this.over ?? (this.columns[name].tick ? "running" : "waiting");
    return h("span", { class: `badge ${words}` }, words.toUpperCase());
  }

  look(last) {
    const name = this.focus;
    const actions = (last(name, "actions") ?? []).map((number) => this.known.actions[number]).join(", ") || "-";
    const mine = this.columns[name];
    const count = mine.preemptions?.length ?? 0;
    const preempts = count > 1 && mine.preemptions[count - 1] > mine.preemptions[Math.max(count - 50, 0)];
    const now = {
      "tick": whole(last(name, "tick")), "cumulative reward": signed(2)(last(name, "total_reward")),
      "reward of the tick": signed(3)(last(name, "reward")), "GPU blocks": percent(last(name, "gpu_utilization")),
      "CPU blocks": percent(last(name, "cpu_utilization")), "trend": signed(4)(last(name, "trend")),
      "in service": whole(last(name, "active")), "tokens served": whole(last(name, "tokens")),
      "preempting": h("span", { class: preempts ? "badge crashed" : "" }, preempts ? "YES, in the last 50 ticks" : "no"),
      "actions": actions,
    };
    const report = this.ends[name]?.report;
    const summary = report ? [h("h3", {}, "At the end"), facts({
      "score": fixed(4)(report.score), "throughput": percent(report.throughput), "latency efficiency": percent(report.latency_efficiency),
      "cache residency": percent(report.cache_residency), "in SLA Free": percent(report.sla_attainment.free), "in SLA VIP": percent(report.sla_attainment.vip),
      "wait p50, p99": this.seconds_of(report.wait), "first token p50, p99": this.seconds_of(report.first_token),
      "fairness": fixed(3)(report.fairness), "not finished": whole(report.unfinished),
    })] : [];
    fill(this.panel, facts(now), summary);
  }

  /** Percentiles, which a report has in nominal ticks, in seconds of the server. */
  seconds_of = ({ p50, p99 }) => `${[p50, p99].map((ticks) => ticks === null ? "-" : fixed(2)(ticks * this.tick_s)).join(", ")} s`;

  /** Lines of the log: what went wrong in these ticks, and the ends. */
  note(agent, mine, before) {
    for (const column of ["dropped", "preemptions", "rejected"]) {
      const was = before ? mine[column][before - 1] : 0;
      const grown = mine[column].at(-1) - was;
      if (grown > 0) this.lines.push(`tick ${mine.tick.at(-1)} ${agent}: ${grown} ${column === "preemptions" ? "preempted by the engine" : column}`);
    }
    this.lines = this.lines.slice(-MOST_LINES);
    this.log.textContent = this.lines.join("\n");
    this.log.scrollTop = this.log.scrollHeight;
  }

  close(words) {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.source) return void (words ? null : this.charts.forEach((one) => one.drawn.close()));
    this.source.close();
    this.source = null;
    this.over = words;  // what has not come to its end by now does not
    this.draw();
    this.seconds = (performance.now() - this.started) / 1000;
    document.body.dataset.seconds = this.seconds.toFixed(3);
    if (words === "done") this.progress.value = 1;
    if (words) say(`${words}: ${this.names.map((name) => `${name} ${fixed(4)(this.ends[name]?.session_logs.final_score)}`).join(", ")}`);
    else this.charts.forEach((one) => one.drawn.close());
    this.done();
  }
}
