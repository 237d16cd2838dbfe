// The page as it stands as one HTML file: styles inside, drawings as pictures, nothing that runs.
import { download, say } from "/web/dom.js";

const CONTROLS = "input, option, textarea";

/** What a reader has chosen is in properties, which markup does not hold: the copy gets it as attributes. */
function write(copy) {
  const written = copy.querySelectorAll(CONTROLS);
  document.querySelectorAll(CONTROLS).forEach((control, number) => {
    const to = written[number];
    if (control.tagName === "OPTION") to.toggleAttribute("selected", control.selected);
    else if (control.tagName === "TEXTAREA") to.textContent = control.value;
    else if (["checkbox", "radio"].includes(control.type)) to.toggleAttribute("checked", control.checked);
    else if (control.type !== "file") to.setAttribute("value", control.value);
  });
}

export async function savePage() {
  // A document without a window loads nothing, so the pictures meet no policy.
  const inert = document.implementation.createHTMLDocument("");
  const copy = inert.importNode(document.documentElement, true);
  write(copy);
  const drawn = document.querySelectorAll("canvas");
  copy.querySelectorAll("canvas").forEach((canvas, number) => {
    const picture = inert.createElement("img");
    picture.src = drawn[number].toDataURL("image/png");
    picture.alt = canvas.getAttribute("aria-label") ?? "a drawing";
    picture.style.cssText = `width:${drawn[number].clientWidth}px;max-width:100%`;
    canvas.replaceWith(picture);
  });
  const sheets = [...document.querySelectorAll("link[rel=stylesheet]")];
  const styles = await Promise.all(sheets.map((sheet) => fetch(sheet.href).then((answer) => answer.text())));
  copy.querySelectorAll("link, script, noscript, #save, .skip").forEach((element) => element.remove());
  copy.querySelectorAll("button, input, select, textarea").forEach((element) => element.setAttribute("disabled", ""));
  copy.querySelectorAll("a[href^='#']").forEach((link) => link.removeAttribute("href"));
  const style = inert.createElement("style");
  style.textContent = styles.join("\n");
  copy.querySelector("head").append(style);
  const name = `${document.title.replace(/[^\w.-]+/g, "-").slice(0, 80)}.html`;
  download(name, `<!doctype html>\n${copy.outerHTML}\n`, "text/html");
  say(`saved as ${name}`);
}
