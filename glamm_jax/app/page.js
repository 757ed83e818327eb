// Runs once, when the image's component is loaded: Gradio gives element, trigger and watch.
// Connects phrases, masks and buttons of the same id, and draws boxes. What is shown or hidden is kept
// here, because Gradio's rendering removes attributes that the server did not send.
const CLICK_DISTANCE = 4; // pixels; a shorter drag is a click
const choices = new Map(); // id of a mask -> whether the person wants to see it
let lit = null;
let start = null;

const stage = () => element.querySelector(".glamm-stage");
const withMask = (id) => document.querySelectorAll(`[data-mask="${CSS.escape(id)}"]`);
const maskOf = (target) => target?.closest?.("[data-mask]")?.dataset.mask ?? null;

function isShown(id) {
  return choices.get(id) ?? id.split("-")[0] === stage()?.dataset.shown;
}

function apply() {
  for (const item of document.querySelectorAll("[data-mask]")) {
    const id = item.dataset.mask;
    item.classList.toggle("is-hidden", !isShown(id));
    item.classList.toggle("is-lit", id === lit);
    if (item.hasAttribute("aria-pressed")) item.setAttribute("aria-pressed", String(isShown(id)));
  }
  element.querySelector("svg")?.classList.toggle("has-lit", lit !== null);
}

function light(id) {
  if (id === lit) return;
  lit = id;
  apply();
}

function toggle(id) {
  choices.set(id, !isShown(id));
  apply();
}

function pointIn(svg, event) {
  const frame = svg.getBoundingClientRect();
  const clamp = (value) => Math.min(1, Math.max(0, value));
  return [clamp((event.clientX - frame.left) / frame.width),
          clamp((event.clientY - frame.top) / frame.height)];
}

function drawDraft(svg, a, b) {
  const { width, height } = svg.viewBox.baseVal;
  const draft = svg.querySelector(".draft");
  draft.setAttribute("x", Math.min(a[0], b[0]) * width);
  draft.setAttribute("y", Math.min(a[1], b[1]) * height);
  draft.setAttribute("width", Math.abs(a[0] - b[0]) * width);
  draft.setAttribute("height", Math.abs(a[1] - b[1]) * height);
}

document.addEventListener("pointerover", (event) => { if (!start) light(maskOf(event.target)); });
document.addEventListener("focusin", (event) => light(maskOf(event.target)));
document.addEventListener("focusout", () => light(null));
document.addEventListener("click", (event) => {
  const id = maskOf(event.target);
  // Clicks on masks of the image are handled when the pointer is released.
  if (id !== null && !event.target.closest("svg")) toggle(id);
  const box = event.target.closest?.(".glamm-stage .remove")?.dataset.box;
  if (box !== undefined) trigger("box_removed", { index: Number(box) });
});
document.addEventListener("keydown", (event) => {
  const phrase = event.target.closest?.(".phrase[data-mask]");
  if (phrase && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    toggle(phrase.dataset.mask);
  }
});

element.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest("svg");
  if (!svg || event.button !== 0) return;
  event.preventDefault();
  start = { svg, point: pointIn(svg, event), x: event.clientX, y: event.clientY,
            mask: maskOf(event.target) };
  svg.setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (start) drawDraft(start.svg, start.point, pointIn(start.svg, event));
});
function finish(event, isCancelled) {
  if (!start) return;
  const { svg, point, x, y, mask } = start;
  const end = pointIn(svg, event);
  start = null;
  drawDraft(svg, [0, 0], [0, 0]);
  if (isCancelled) return;
  if (Math.hypot(event.clientX - x, event.clientY - y) < CLICK_DISTANCE) {
    if (mask !== null) toggle(mask);
    return;
  }
  const box = [Math.min(point[0], end[0]), Math.min(point[1], end[1]),
               Math.max(point[0], end[0]), Math.max(point[1], end[1])];
  trigger("box_drawn", { box });
}
element.addEventListener("pointerup", (event) => finish(event, false));
element.addEventListener("pointercancel", (event) => finish(event, true));

window.glammRefresh = apply; // for the script of the transcript
let exchanges = null;
watch("value", () => {
  // With a new answer, or a new image, its masks are shown and no others.
  if (stage()?.dataset.exchanges !== exchanges) choices.clear();
  exchanges = stage()?.dataset.exchanges;
  apply();
});
apply();
