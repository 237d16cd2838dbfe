// The page: which part is shown is in the address after the #, and so is all that was chosen in it.
import { call, fill, h, problem } from "/web/dom.js";
import { savePage } from "/web/save.js";

const PARTS = {
  serving: "/web/serving.js",
  training: "/web/training.js",
  eviction: "/web/runs.js",
  run: "/web/run.js",
  episode: "/web/episode.js",
  play: "/web/play.js",
  hierarchy: "/web/hierarchy.js",
};

let leave = null;
let shown = 0;

/** The part and the choices that an address names. */
export function place() {
  const [path, words] = location.hash.replace(/^#\/?/, "").split("?");
  return { part: path, chosen: Object.fromEntries(new URLSearchParams(words ?? "")) };
}

async function show() {
  if (location.hash === "#content") return;
  const content = document.getElementById("content");
  const { part, chosen } = place();
  const mine = ++shown;
  leave?.();
  leave = null;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${part === "run" || part === "episode" ? "eviction" : part}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!part) return void fill(content, home());
  if (!Object.hasOwn(PARTS, part)) return void fill(content, h("h1", {}, "No such page"), h("p", {}, "Choose one above."));
  fill(content, h("p", { class: "note" }, "…"));
  try {
    const { open } = await import(PARTS[part]);
    const room = h("div", {});
    const left = await open(room, chosen);
    if (mine !== shown) return void left?.();
    leave = left;
    fill(content, room);
    document.title = `${room.querySelector("h1")?.textContent ?? part} · kv-cache-rl`;
  } catch (error) {
    if (mine === shown) fill(content, h("h1", {}, "This cannot be shown"), problem(error));
  }
}

function home() {
  const parts = [
    ["#/serving", "Serving", "Several agents run the same server under the same load. Watch their queues, memory and score."],
    ["#/training", "Training", "Agents of the serving world learn: their curves, also while they train."],
    ["#/eviction", "Eviction", "Runs of models and policies, live and afterwards, down to each call and what it cost."],
    ["#/play", "Play it yourself", "You are the cache manager for fifteen windows. Are you better than lru?"],
    ["#/hierarchy", "Hierarchy", "How the hit rate grows with capacity, policy by policy, up to the bound. Your trace too."],
  ];
  return h("div", {}, h("h1", {}, "A KV cache under pressure"),
    h("p", { class: "lead" }, "Something must decide what to evict, compress, swap out, keep, admit or reject."),
    h("div", { class: "grid2" }, parts.map(([href, name, text]) =>
      h("a", { class: "card choice", href }, h("h2", {}, name), h("p", {}, text)))));
}

document.getElementById("save").addEventListener("click", () => savePage());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
addEventListener("hashchange", show);
call("/health").then((found) => {
  document.getElementById("version").textContent =
    `Version ${found.version}, environment version ${found.environment_version}.`;
}).catch(() => {});
show();
