// Lines over a common axis, drawn by uPlot, each with its numbers as a table for those who do not see it.
import { card, h, table } from "/web/dom.js";

const COLOURS = ["#2563eb", "#e8833a", "#0f9d74", "#b07aa1", "#d63b3b", "#76b7b2", "#9c755f", "#8a8f98",
  "#4e79a7", "#edc948", "#59a14f", "#f28e2b", "#499894", "#e15759", "#79706e", "#d37295"];
export const colourOf = (number) => COLOURS[number % COLOURS.length];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A chart in a figure. `show(x, lines)` draws: x ascending, one list a series, null where there is no value.
 * Charts with one `sync` share their cursor.
 */
export function chart({ title, series, x = "tick", height = 190, sync, log = false, value, xValue, from0 = true }) {
  const place = h("div", { class: "plot" });
  const body = h("div", {});
  const read = value ?? ((number) => (number === null ? "-" : +number.toPrecision(4)));
  const readX = xValue ?? ((number) => number);
  const numbers = h("details", { class: "numbers", ontoggle: () => numbers.open && write() },
    h("summary", {}, "numbers"), body);
  const legend = h("p", { class: "legend" }, series.map((one, number) =>
    h("span", {}, swatch(one.colour ?? colourOf(number), one.dash ?? DASHES[Math.floor(number / COLOURS.length)]), one.name)));
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, title)), place, legend, numbers);
  let data = [[], ...series.map(() => [])];
  let plot = null;

  const options = () => ({
    width: Math.max(place.clientWidth, 240),
    height,
    legend: { show: false },
    cursor: { sync: sync ? { key: sync } : undefined, points: { size: 7 } },
    scales: { x: { time: false, distr: log ? 3 : 1 }, y: { range: (_, low, high) => range(low, high, from0) } },
    axes: [
      { stroke: ink("--soft"), grid: { stroke: ink("--rule"), width: 1 }, ticks: { stroke: ink("--rule") },
        label: x, labelSize: 16, labelFont: "11px system-ui", font: "11px system-ui", size: 32,
        values: (_, marks) => marks.map((mark) => (mark === null ? "" : readX(mark))) },
      { stroke: ink("--soft"), grid: { stroke: ink("--rule"), width: 1 }, ticks: { stroke: ink("--rule") },
        size: 58, font: "11px system-ui", values: (_, marks) => marks.map((mark) => read(mark)) },
    ],
    series: [{}, ...series.map((one, number) => ({
      label: one.name,
      stroke: one.colour ?? colourOf(number),
      width: 1.6,
      dash: one.dash ?? DASHES[Math.floor(number / COLOURS.length)],
      points: { show: one.points ?? false, size: 5 },
      spanGaps: true,
    }))],
    hooks: { setCursor: [tell] },
  });
  const hover = h("span", { class: "hover" });
  element.querySelector("figcaption").append(hover);

  function tell(drawn) {
    const at = drawn.cursor.idx;
    if (at === null || at === undefined) return void (hover.textContent = "");
    const said = series.map((one, number) => `${one.name} ${read(data[number + 1][at] ?? null)}`);
    hover.textContent = `${readX(data[0][at])}: ${said.join(" · ")}`;
  }

  /** About twenty of the points, the first and the last among them. */
  function write() {
    const step = Math.max(1, Math.ceil(data[0].length / 20));
    const rows = data[0].map((_, at) => at).filter((at) => at % step === 0 || at === data[0].length - 1);
    body.replaceChildren(table(`${title}, in numbers`, [
      { name: x, value: (at) => readX(data[0][at]) },
      ...series.map((one, number) => ({ name: one.name, value: (at) => read(data[number + 1][at] ?? null) })),
    ], rows));
  }

  const observer = new ResizeObserver(() => plot?.setSize({ width: Math.max(place.clientWidth, 240), height }));
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const again = () => { plot?.destroy(); plot = null; if (data[0].length) draw(); };
  scheme.addEventListener("change", again);
  function draw() {
    if (!plot) {
      plot = new uPlot(options(), data, place);
      plot.root.querySelector("canvas").setAttribute("aria-label", `${title}: the numbers are below`);
      plot.root.querySelector("canvas").setAttribute("role", "img");
      observer.observe(place);
    } else plot.setData(data);
    if (numbers.open) write();
  }
  return {
    element,
    show(xs, lines) { data = [xs, ...lines]; if (place.isConnected) draw(); },
    get last() { return data; },
    close() { observer.disconnect(); scheme.removeEventListener("change", again); plot?.destroy(); plot = null; },
  };
}

function range(low, high, from0) {
  if (low === null || high === null) return [0, 1];
  const [bottom, top] = from0 ? [Math.min(0, low), Math.max(0, high)] : [low, high];
  const room = (top - bottom || 1) * 0.06;
  return [bottom < 0 || !from0 ? bottom - room : 0, top + room];
}

/** The colour and dash of a line, as a small drawing. */
function swatch(colour, dash) {
  const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 18 8", class: "key", "aria-hidden": "true" })) line.setAttribute(name, value);
  const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 18, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": (dash ?? []).join(" ") }))
    stroke.setAttribute(name, value);
  line.append(stroke);
  return line;
}

export const charts = (all) => card(h("div", { class: "charts" }, all.map((one) => one.element)));
