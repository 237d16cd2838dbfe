// What every part of the page is made of: elements, requests, numbers as text, tables.

/** An element. Attributes that begin with "on" are listeners; text is never read as markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (/^aria[A-Z]/.test(name)) element.setAttribute(`aria-${name.slice(4).toLowerCase()}`, value);
    else if (name in element && !["list", "form"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Tells a screen reader what has changed. */
export function say(text) {
  document.getElementById("status").textContent = text;
}

export class Refused extends Error {
  constructor(status, error) {
    super(error.field ? `${error.field}: ${error.message}` : error.message);
    this.status = status;
  }
}

/** The JSON of a call; `body` makes it a POST. Throws Refused with the server's own words. */
export async function call(path, { body, method, signal } = {}) {
  const options = { method: method ?? (body === undefined ? "GET" : "POST"), signal };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the server does not answer; is kv-cache-rl serve still running?" });
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({ error: { message: `status ${answer.status}` } }));
  if (!answer.ok) throw new Refused(answer.status, found.error ?? { message: `status ${answer.status}` });
  return found;
}

/** An error where it happened, in words. */
export function problem(error) {
  say(error.message);
  return h("p", { class: "problem", role: "alert" }, error.message);
}

export const query = (values) => {
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(kept).toString();
};

// Numbers as text --------------------------------------------------------------------------------------------

export const MINUS = "−";
export const fixed = (digits) => (value) =>
  value === null || value === undefined ? "-" : value.toFixed(digits).replace("-", MINUS);
export const signed = (digits) => (value) =>
  value === null || value === undefined ? "-" : `${value >= 0 ? "+" : ""}${fixed(digits)(value)}`;
export const whole = (value) =>
  value === null || value === undefined ? "-" : Math.round(value).toLocaleString("en");
export const percent = (value) => (value === null || value === undefined ? "-" : `${(100 * value).toFixed(1)} %`);
export const bytes = (value) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value >= 100 || unit === 0 ? value.toFixed(0) : value.toPrecision(3)} ${units[unit]}`;
};

// Parts ------------------------------------------------------------------------------------------------------

/** A table that scrolls sideways on a phone. Columns: [{name, text?, value(row)}]; a value may be an element. */
export function table(caption, columns, rows, attributes = {}) {
  const side = (column) => (column.text ? "text" : "");
  const head = h("tr", {}, columns.map((column) => h("th", { scope: "col", class: side(column) }, column.name)));
  const body = rows.map((row) =>
    h("tr", row.attributes ?? {}, columns.map((column) => h("td", { class: side(column) }, column.value(row)))),
  );
  const inner = h("table", attributes, h("caption", { class: "sr" }, caption), h("thead", {}, head), h("tbody", {}, body));
  return h("div", { class: "wide", tabIndex: 0, role: "region", ariaLabel: caption }, inner);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, Object.entries(pairs).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function tile(name, value, note = "") {
  return h("div", { class: "tile" }, h("span", { class: "note" }, name), h("strong", {}, value), h("span", { class: "note" }, note));
}

export const card = (...children) => h("section", { class: "card" }, children);

/** A labelled control. */
export function field(label, control, note) {
  return h("label", { class: "field" }, h("span", {}, label), control, note ? h("span", { class: "note" }, note) : null);
}

export function choice(names, chosen, attributes = {}) {
  return h("select", attributes, names.map((name) => {
    const [value, text] = Array.isArray(name) ? name : [name, name];
    return h("option", { value, selected: value === chosen }, text);
  }));
}

/** Checkboxes in a group; `chosen()` of the result names those that are set. */
export function boxes(legend, names, chosen) {
  const inputs = names.map((name) => h("input", { type: "checkbox", value: name, checked: chosen.includes(name) }));
  const group = h("fieldset", { class: "boxes" }, h("legend", {}, legend),
    inputs.map((input) => h("label", {}, input, input.value)));
  group.chosen = () => inputs.filter((input) => input.checked).map((input) => input.value);
  return group;
}

/** Gives the reader a file. */
export function download(name, text, type = "text/plain") {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const csv = (rows) =>
  rows.map((row) => row.map((cell) => {
    const text = String(cell ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }).join(",")).join("\n") + "\n";
