// The hierarchy lab: hit rate by capacity, policy by policy, with the bound; for a workload or a trace of one's own.
import { boxes, bytes, call, card, choice, csv, download, field, fill, fixed, h, percent, problem, query, say, table, whole } from "/web/dom.js";
import { chart, charts, colourOf } from "/web/charts.js";

function expired(error) {
  if (error.status === 404) throw new Error("The trace of this address has expired or was deleted; send the file again under Hierarchy.");
  throw error;
}

export async function open(room, chosen) {
  const known = await call("/api/hierarchy");
  let trace = chosen.trace ? await call(`/api/hierarchy/traces/${encodeURIComponent(chosen.trace)}`).catch(expired) : null;
  let drawn = null;
  const workload = choice(known.workloads, chosen.workload ?? "rag_burst", { id: "workload", onchange: withoutTrace });
  const model = choice(known.models, chosen.model ?? known.models[0], { id: "model" });
  const points = choice(["8", "12", "20", "30"], chosen.points ?? "12", { id: "points" });
  const policies = boxes("Policies", known.policies, (chosen.policies ?? "lru,lfu,s3fifo,arc").split(",").filter((one) => known.policies.includes(one)));
  const file = h("input", { type: "file", id: "file", onchange: upload });
  const said = h("div", {});
  const result = h("div", { id: "curves" });

  const described = () => h("p", {}, `${trace.name}: ${whole(trace.requests)} requests, ${whole(trace.accesses)} accesses, ${whole(trace.blocks)} blocks. It is used in place of the workload.`);

  /** A workload that is chosen takes the place of a trace. */
  function withoutTrace() {
    trace = null;
    file.value = "";
    fill(said);
  }

  async function upload() {
    trace = null;
    fill(said);
    const given = file.files[0];
    if (!given) return;
    try {
      const found = await call(`/api/hierarchy/traces?${query({ name: given.name })}`, { body: given });
      trace = found;
      fill(said, described());
    } catch (error) {
      file.value = "";
      fill(said, problem(error));
    }
  }

  async function compute(event) {
    event?.preventDefault();
    const names = policies.chosen();
    if (!names.length) return void fill(said, problem(new Error("Choose at least one policy.")));
    const source = trace ? { trace: trace.trace } : { workload: workload.value };
    history.replaceState(null, "", `#/hierarchy?${query({ trace: trace?.trace, workload: workload.value, model: model.value, points: points.value, policies: names.join(",") })}`);
    button.disabled = true;
    fill(result, h("p", { class: "note" }, "Replaying …"));
    try {
      const asked = { ...source, policies: names, points: +points.value, model: model.value };
      show(await call("/api/hierarchy/curves", { body: asked }), trace?.name ?? workload.value);
    } catch (error) {
      fill(result, problem(error));
    }
    button.disabled = false;
  }

  function show(found, called) {
    drawn?.close();
    const sizes = found.capacities_bytes;
    const names = Object.keys(found.hit_rate);
    const lines = names.map((name) => found.hit_rate[name]);
    const series = names.map((name, at) => ({ name, colour: colourOf(at), points: true }));
    if (found.bound) {
      series.push({ name: found.bound.name, colour: "#8a8f98", dash: [6, 4] });
      lines.push(found.bound.hit_rate);
    }
    drawn = chart({ title: `Hit rate of ${called}`, series, x: `KV cache of ${model.value}`, height: 340, log: true, value: (one) => one === null ? "-" : percent(one), xValue: bytes });
    const columns = [
      { name: "capacity", value: (at) => bytes(sizes[at]) }, { name: "blocks", value: (at) => whole(found.capacities[at]) },
      ...series.map((one, number) => ({ name: one.name, value: (at) => percent(lines[number][at]) })),
    ];
    const best = sizes.map((_, at) => names.reduce((a, b) => (found.hit_rate[b][at] > found.hit_rate[a][at] ? b : a)));
    const rows = sizes.map((_, at) => at);
    fill(result, charts([drawn]),
      card(table("Hit rate by capacity", [...columns, { name: "best", text: true, value: (at) => best[at] }], rows, { id: "rates" }),
        h("p", { class: "note" }, `${whole(found.requests)} requests, ${whole(found.accesses)} accesses to ${whole(found.blocks)} blocks of ${bytes(found.block_bytes)}${found.uneven ? " on average: they differ in size, and each counts as one of the mean" : ""}.`),
        h("button", { type: "button", onclick: () => download(`${called}.csv`, csv([["capacity_bytes", "blocks", ...series.map((one) => one.name)], ...rows.map((at) => [sizes[at], found.capacities[at], ...lines.map((line) => line[at])])]), "text/csv") }, "Download as CSV")));
    requestAnimationFrame(() => drawn.show(sizes, lines));
    say(`hit rates of ${names.join(", ")} at ${sizes.length} capacities, up to ${names.map((name, at) => `${name} ${fixed(3)(lines[at].at(-1))}`).join(", ")}`);
  }

  const button = h("button", { class: "go", type: "submit", id: "compute" }, "Draw");
  fill(room,
    h("h1", {}, "Hierarchy"),
    h("p", { class: "lead" }, "How many accesses find their block, by how much memory there is."),
    card(h("form", { class: "form", onsubmit: compute },
      h("div", { class: "fields" }, field("Workload", workload), field("Model", model), field("Capacities", points), field("Or a trace of yours", file, "up to 8 MiB")),
      policies, h("div", { class: "actions" }, button)), said),
    result);
  if (trace) fill(said, described());
  setTimeout(compute);
  return () => drawn?.close();
}
