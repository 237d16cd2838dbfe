// One run of models or policies: a cell an episode, tiles, a dot an episode, the table; live while it runs.
import { call, card, facts, fill, fixed, h, problem, query, say, signed, table, tile, whole } from "/web/dom.js";

const GOOD = 0.5;

export async function open(room, chosen) {
  if (!chosen.run) throw new Error("No run is named; choose one under Eviction.");
  const path = `/api/eviction/runs/${encodeURIComponent(chosen.run ?? "")}`;
  const found = await call(path);
  const rows = found.rows;
  let summary = found.summary;
  let source = null;
  const live = h("span", {});
  const body = h("div", {});
  const trouble = h("div", {});
  fill(room, h("h1", {}, found.run), h("p", { class: "lead" }, live), found.problem ? h("p", { class: "problem" }, found.problem) : null, trouble, body);

  function draw() {
    const config = found.config;
    const models = config ? config.targets.map((one) => one.model) : [...new Set(rows.map((row) => row.model))];
    const good = rows.filter((row) => row.error === null);
    const [colour, state] = summary ? ["completed", "DONE"] : found.running ? ["running", "RUNNING"] : ["failed", "STOPPED"];
    fill(live, h("span", { class: `badge ${colour}` }, state), ` ${counted()}`);
    fill(body,
      card(h("div", { class: "tiles" }, tiles(good, rows))),
      h("p", { class: "legend" }, [["done", `normalised ≥ ${GOOD}`], ["low", "above the floor"], ["below", "below the floor"], ["failed", "failed rollout"]].map(([name, words]) => h("span", {}, h("span", { class: `swatch cell ${name}` }), words))),
      models.map((model) => card(h("h2", { class: "first" }, model), cells(model), dots(model))),
      summary ? card(h("h2", { class: "first" }, "Results"), results(), notes()) : null,
      card(h("h2", { class: "first" }, "Episodes, the worst first"), episodes()),
      config ? card(h("h2", { class: "first" }, "How it was asked"), facts({
        command: config.command, set: config.trace ?? config.split, difficulty: config.difficulty, seed: config.seed,
        views: [...new Set(config.targets.map((one) => `${one.view ?? "full"}, ${one.history ?? "full"}`))].join("; "),
        "environment version": config.environment_version, package: config.package_version, started: config.started ?? "",
      })) : null);
  }

  const counted = () => found.expected ? `${rows.length} of ${found.expected} rollouts` : `${rows.length} rollouts`;
  const address = (row) => `#/episode?${query({ run: found.run, model: row.model, scenario: row.scenario_id })}`;
  const words = (row) => row.error ? `${row.scenario_id}, ${row.model}: failed` : `${row.scenario_id}, ${row.model}: normalised ${signed(2)(row.normalized)}`;

  function cells(model) {
    const mine = rows.filter((row) => row.model === model);
    const expected = Math.round((found.expected ?? 0) / Math.max(1, found.config?.targets.length ?? 1));
    const waiting = Array.from({ length: Math.max(0, expected - mine.length) }, () => h("span", { title: "not yet" }));
    return h("div", { class: "cells" }, mine.map((row) => h("a", {
      href: address(row), title: words(row), ariaLabel: words(row),
      class: row.error ? "failed" : row.normalized >= GOOD ? "done" : row.normalized >= 0 ? "low" : "below",
    })), waiting);
  }

  function dots(model) {
    const mine = rows.filter((row) => row.model === model && row.error === null);
    if (!mine.length) return null;
    const low = Math.min(-1, ...mine.map((row) => row.normalized));
    const high = Math.max(1, ...mine.map((row) => row.normalized));
    const at = (value) => (100 * (value - low)) / (high - low);
    return [h("div", { class: "dots" }, h("span", { class: "zero", style: `left:${at(0)}%` }), h("span", { class: "zero", style: `left:${at(1)}%` }), mine.map((row) => h("a", { href: address(row), title: words(row), ariaLabel: words(row), style: `left:${at(row.normalized)}%` }))),
      h("div", { class: "scale-ends" }, h("span", {}, `normalised ${signed(1)(low)}`), h("span", {}, "lines: 0 the floor, 1 the best known"), h("span", {}, signed(1)(high)))];
  }

  function tiles(good, all) {
    const mean = (read) => (good.length ? good.reduce((total, row) => total + read(row), 0) / good.length : null);
    const spread = (read, form) => {
      const values = good.map(read).sort((a, b) => a - b);
      const middle = (values[Math.floor((values.length - 1) / 2)] + values[Math.floor(values.length / 2)]) / 2;
      return values.length ? `${form(values[0])} to ${form(values.at(-1))}, middle ${form === whole && !Number.isInteger(middle) ? fixed(1)(middle) : form(middle)}` : "";
    };
    const tokens = (row) => row.prompt_tokens + row.completion_tokens;
    const money = summary?.usage?.map((one) => one.cost_in_all).filter((one) => one !== undefined && one !== null);
    const failed = all.length - good.length;
    return [
      tile("normalised", signed(3)(mean((row) => row.normalized)), spread((row) => row.normalized, signed(2))),
      tile("failed requests", fixed(1)(mean((row) => row.metrics.total_failures_metric)), spread((row) => row.metrics.total_failures_metric, whole)),
      tile("invalid calls", fixed(1)(mean((row) => row.metrics.invalid_calls)), spread((row) => row.metrics.invalid_calls, whole)),
      tile("model calls", fixed(1)(mean((row) => row.model_calls)), spread((row) => row.model_calls, whole)),
      tile("tokens", whole(mean(tokens)), spread(tokens, whole)),
      tile("money", money?.length ? fixed(4)(money.reduce((a, b) => a + b, 0)) : "-", money?.length ? "in all, at the prices given" : "no prices were given"),
      tile("failed rollouts", whole(failed), all.length ? `${fixed(0)((100 * failed) / all.length)} %` : ""),
    ];
  }

  function results() {
    const mean = (value, digits, sign) => value ? `${(sign ? signed : fixed)(digits)(value.mean)}${value.high === null ? "" : ` ± ${fixed(digits)(value.high - value.mean)}`}` : "-";
    return table("Results by tier", [
      { name: "tier", text: true, value: (row) => row.tier },
      { name: "decider", text: true, value: (row) => row.policy },
      { name: "n", value: (row) => row.scenarios },
      { name: "failed", value: (row) => row.failed_rollouts },
      { name: "reward", value: (row) => mean(row.reward, 3, true) },
      { name: "normalised", value: (row) => mean(row.normalized, 2, true) },
      { name: "failures", value: (row) => mean(row.failures, 1) },
      { name: "calls a window", value: (row) => mean(row.calls_per_step, 2) },
    ], summary.rows, { id: "summary" });
  }

  const notes = () => (summary.findings ?? []).map((one) => h("p", { class: "note" }, one));

  let most = 100;
  /** The episodes, the worst first: a table of thousands of rows would take seconds to lay out. */
  function episodes() {
    const ranked = [...rows].sort((a, b) => (a.normalized ?? -Infinity) - (b.normalized ?? -Infinity));
    const more = h("button", { type: "button", onclick: () => { most *= 4; draw(); } }, `Show more of ${whole(rows.length)}`);
    return [table("Episodes, the worst first", [
      { name: "scenario", text: true, value: (row) => h("a", { href: address(row) }, row.scenario_id) },
      { name: "model", text: true, value: (row) => row.model },
      { name: "reward", value: (row) => signed(3)(row.reward) },
      { name: "normalised", value: (row) => signed(2)(row.normalized) },
      { name: "failures", value: (row) => whole(row.metrics?.total_failures_metric) },
      { name: "refused", value: (row) => whole(row.metrics?.invalid_calls) },
      { name: "tokens", value: (row) => whole(row.prompt_tokens + row.completion_tokens) },
      { name: "", text: true, value: (row) => h("span", { class: row.error ? "bad" : "note" }, row.error ?? row.notes[0] ?? "") },
    ], ranked.slice(0, most), { id: "episodes" }), rows.length > most ? more : null];
  }

  draw();
  if (!summary && !found.problem) {
    source = new EventSource(`${path}/events`);
    const known = new Set(rows.map((row) => `${row.model}\n${row.scenario_id}`));
    source.addEventListener("row", (event) => {
      const row = JSON.parse(event.data);
      const key = `${row.model}\n${row.scenario_id}`;
      if (known.has(key)) return;
      known.add(key);
      rows.push(row);
      found.running = true;
      draw();
      say(counted());
    });
    source.addEventListener("done", (event) => {
      summary = JSON.parse(event.data).summary;
      source.close();
      draw();
      say("the run is done");
    });
    source.addEventListener("error", (event) => {
      // An error that the server tells is no cut connection, which the browser mends by itself.
      if (!event.data && source.readyState !== EventSource.CLOSED) return;
      source.close();
      const why = event.data ? JSON.parse(event.data).message : "The server ended the stream.";
      fill(trouble, problem(new Error(`${why} Reload the page to see the run as it is now.`)));
    });
  }
  return () => source?.close();
}
