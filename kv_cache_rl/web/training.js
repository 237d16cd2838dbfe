// Trainings of serving agents: how far they are, and the curve of one, which grows while it trains.
import { call, card, facts, fill, fixed, h, problem, query, say, table, tile, whole } from "/web/dom.js";
import { chart } from "/web/charts.js";

const LOOK_MS = 2000;

export async function open(room, chosen) {
  const list = h("div", {});
  const one = h("div", {});
  const trouble = h("div", {});
  let drawn = null;
  let timer = null;
  let left = false;
  fill(room, h("h1", {}, "Training"),
    h("p", { class: "lead" }, "Agents of the serving world learn. What counts is the score on seeds that they never train on."),
    trouble, list, one);

  async function look() {
    const { trainings } = await call("/api/trainings");
    fill(list, card(trainings.length ? listed(trainings) : nothing()));
    const name = chosen.training ?? trainings[0]?.training;
    if (name) show(await call(`/api/trainings/${name.split("/").map(encodeURIComponent).join("/")}`));
    fill(trouble);
  }

  function show(found) {
    if (drawn && drawn.training !== found.training) forget();
    if (!found.curve.length) return void fill(one, card(heading(found), tiles(found), ended(found)));
    const tasks = Object.keys(found.curve[0].select);
    if (!drawn) {
      const series = tasks.map((name) => ({ name, points: true }));
      drawn = { training: found.training, head: h("div", {}), chart: chart({
        title: `Mean score on ${found.plan.select ?? "the"} selection seeds`, series, x: found.counted_in, height: 280, from0: false, value: fixed(3) }) };
      fill(one, card(drawn.head, h("div", { id: "curve" }, drawn.chart.element), planned(found)));
    }
    fill(drawn.head, heading(found), tiles(found), ended(found));
    // Drawn once it stands in the page, whose width it takes.
    setTimeout(() => drawn?.chart.show(found.curve.map((point) => point[found.counted_in]), tasks.map((name) => found.curve.map((point) => point.select[name] ?? null))));
  }

  function forget() {
    drawn?.chart.close();
    drawn = null;
  }

  async function again() {
    try {
      await look();
    } catch (error) {
      fill(trouble, problem(error));
    }
    if (!left) timer = setTimeout(again, LOOK_MS);
  }

  await look();
  timer = setTimeout(again, LOOK_MS);
  say("trainings are shown");
  return () => {
    left = true;
    clearTimeout(timer);
    forget();
  };
}

const BADGES = { running: "running", stopped: "failed", finished: "completed" };
const badge = (found) => h("span", { class: `badge ${BADGES[found.status]}` }, found.status.toUpperCase());
const far = (found) => (found.total === null ? "-" : `${whole(found.done)} of ${whole(found.total)} ${found.counted_in}s`);

function listed(trainings) {
  return table("Trainings", [
    { name: "training", text: true, value: (found) => h("a", { href: `#/training?${query({ training: found.training })}` }, found.training) },
    { name: "", text: true, value: badge },
    { name: "so far", value: far },
    { name: "", text: true, value: (found) => (found.problem ? h("span", { class: "bad" }, found.problem) : "") },
  ], trainings, { id: "trainings" });
}

const nothing = () => h("p", {}, "Nothing has trained here yet. Start one with ", h("code", {}, "kv-cache-rl serving train"), "; then its curve stands here, live.");
const heading = (found) => h("h2", { class: "first" }, found.training, " ", badge(found));
const mean = (point) => { const all = Object.values(point.select); return all.reduce((a, b) => a + b, 0) / all.length; };

function tiles(found) {
  const best = found.curve.reduce((kept, point) => (kept === null || mean(point) > mean(kept) ? point : kept), null);
  const last = found.curve.at(-1);
  return h("div", { class: "tiles" },
    tile("so far", far(found)),
    tile("best mean score", best ? fixed(4)(mean(best)) : "-", best ? `at ${found.counted_in} ${whole(best[found.counted_in])}; it is kept` : "no look at the selection seeds yet"),
    tile("latest mean score", last ? fixed(4)(mean(last)) : "-", last ? `at ${found.counted_in} ${whole(last[found.counted_in])}` : ""));
}

function ended(found) {
  if (found.problem) return problem(new Error(found.problem));
  if (found.status !== "stopped") return null;
  return h("p", { class: "problem" }, "No process trains it now. The same command goes on where it stopped.",
    found.said ? [" Its last words: ", h("code", {}, found.said)] : null);
}

function planned(found) {
  const told = Object.entries(found.plan).filter(([, value]) => typeof value !== "object" || Array.isArray(value));
  return h("details", {}, h("summary", {}, "Settings"), facts(Object.fromEntries(told.map(([name, value]) => [name, String(value)]))));
}
