// The memory map: every entry of the cache as a bar as long as the square root of its pages.
import { h, table, whole } from "/web/dom.js";

export const TYPES = { system: "#4e79a7", context: "#76b7b2", tool_result: "#59a14f", generation: "#edc948", reasoning: "#b07aa1", ephemeral: "#a8a29e" };
const LOST = "#d63b3b";
const ROW = 13;
const LEFT = 62;
const HEIGHTS = { 16: 10, 8: 6, 4: 3 };

/** The columns of a state as one object an entry. */
export function entriesOf(state) {
  const { id } = state.entries;
  return id.map((_, at) => Object.fromEntries(Object.entries(state.entries).map(([name, list]) => [name, list[at]])));
}

/**
 * A map that `show(state, lost)` draws: `lost` holds ids that fail or are evicted in this window. A click
 * gives the id of an entry to `picked`.
 */
export function memoryMap(picked) {
  const canvas = h("canvas", { class: "map", role: "img" });
  const hover = h("p", { class: "note hover" }, " ");
  const legend = h("p", { class: "legend" },
    Object.entries(TYPES).map(([name, colour]) => h("span", {}, h("span", { class: "swatch", style: `background:${colour}` }), name)),
    h("span", {}, h("span", { class: "swatch", style: `background:${LOST}` }), "lost in this window"),
    h("span", {}, "length: square root of the pages"), h("span", {}, "height: 16, 8, 4 bits"), h("span", {}, "hatched: on the CPU"));
  const numbers = h("details", { class: "numbers", ontoggle: () => numbers.open && write() }, h("summary", {}, "numbers"), h("div", {}));
  const element = h("div", {}, canvas, hover, legend, numbers);
  let rows = [];
  let lost = new Set();
  let marked = null;
  let state = null;

  function draw() {
    if (!state || !canvas.isConnected) return;
    const width = canvas.clientWidth || 600;
    const height = rows.length * ROW + 8;
    const sharp = devicePixelRatio || 1;
    canvas.width = width * sharp;
    canvas.height = height * sharp;
    canvas.style.height = `${height}px`;
    const to = canvas.getContext("2d");
    to.scale(sharp, sharp);
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink");
    const most = Math.max(1, ...rows.map((row) => row.pages));
    // Sizes differ by a factor of a thousand: the square root shows the small ones too.
    const long = (pages) => Math.max(2, Math.sqrt(pages / most) * (width - LEFT - 10));
    to.font = "10px ui-monospace, Menlo, monospace";
    to.textBaseline = "middle";
    rows.forEach((row, at) => {
      const y = at * ROW + 4;
      if (row.id === marked) {
        to.fillStyle = style.getPropertyValue("--rule");
        to.fillRect(0, y - 1, width, ROW);
      }
      to.fillStyle = ink;
      to.fillText(row.id.slice(0, 9), 2, y + 6);
      const tall = HEIGHTS[row.bits] ?? 10;
      const top = y + (11 - tall) / 2;
      to.fillStyle = lost.has(row.id) ? LOST : TYPES[row.type] ?? "#888";
      to.globalAlpha = row.place === "none" ? 0.3 : 1;
      to.fillRect(LEFT, top, long(row.pages), tall);
      to.globalAlpha = 1;
      if (row.place === "cpu") hatch(to, LEFT, top, long(row.pages), tall, style.getPropertyValue("--card"));
    });
    const gpu = rows.filter((row) => row.place === "gpu").length;
    canvas.setAttribute("aria-label", `Memory map: ${rows.length} entries, ${gpu} on the GPU, ${whole(state.memory.gpu_used)} of ${whole(state.memory.budget_pages)} pages in use; the numbers are below`);
    if (numbers.open) write();
  }

  function hatch(to, x, y, width, height, colour) {
    to.save();
    to.beginPath();
    to.rect(x, y, width, height);
    to.clip();
    to.strokeStyle = colour;
    to.lineWidth = 1.6;
    for (let at = x - height; at < x + width; at += 5) {
      to.beginPath();
      to.moveTo(at, y + height);
      to.lineTo(at + height, y);
      to.stroke();
    }
    to.restore();
  }

  function write() {
    numbers.lastElementChild.replaceChildren(table("Entries of the cache", COLUMNS, rows));
  }

  const under = (event) => rows[Math.floor((event.offsetY - 4) / ROW)];
  canvas.addEventListener("mousemove", (event) => { const row = under(event); hover.textContent = row ? describe(row) : " "; });
  canvas.addEventListener("click", (event) => { const row = under(event); if (row) picked?.(row.id); });
  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  return {
    element,
    show(next, gone = [], mark = null) {
      state = next;
      rows = entriesOf(next).filter((row) => row.place !== "none" || row.pages);
      lost = new Set(gone);
      marked = mark;
      draw();
    },
    close() { observer.disconnect(); },
  };
}

export const COLUMNS = [
  { name: "entry", text: true, value: (row) => row.id },
  { name: "type", text: true, value: (row) => row.type },
  { name: "phase", text: true, value: (row) => row.phase },
  { name: "place", text: true, value: (row) => row.place },
  { name: "bits", value: (row) => row.bits },
  { name: "tokens", value: (row) => whole(row.tokens) },
  { name: "pages", value: (row) => whole(row.pages) },
];

const describe = (row) => `${row.id}: ${row.type}, ${row.phase}, ${row.place}, ${row.bits} bits, ${whole(row.tokens)} tokens, ${whole(row.pages)} pages`;

/** What a window loses: entries that its calls evict, and those that fail in it. */
export function lostIn(record) {
  if (!record) return [];
  const evicted = record.calls.filter((one) => one.verb === "evict" && one.ok).map((one) => one.seq_id);
  return [...evicted, ...record.failures.map((one) => one.seq_id)];
}
