// The image with its regions, boxes that are drawn, and their masks.

import { element, make, query, request, say, shape } from "/elements.js";
import {
  colours, currentPhrase, linkedIds, name, render, selectRegion, state,
} from "/state.js";

export function drawStage() {
  const { image, width, height } = state.data;
  const stage = element("stage");
  stage.style.setProperty("--ratio", width / height);
  let picture = stage.querySelector("img");
  if (!picture || picture.dataset.image !== image) {
    picture = make("img", { src: `/api/pixels?${query({ image })}`, alt: image });
    picture.dataset.image = image;
    picture.addEventListener("error", () => say(`The image ${image} cannot be read.`, true));
  }
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  svg.addEventListener("pointerdown", startBox);
  stage.replaceChildren(picture, svg);
  drawRegions();
}

export function drawRegions() {
  const { width, height } = state.data;
  const svg = element("stage").querySelector("svg");
  const linked = linkedIds();
  const size = Math.max(width, height) / 26;
  const groups = [];
  // The largest first, so that small ones can be clicked.
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const items = [...state.draft.value.objects].sort((a, b) => area(b) - area(a));
  for (const item of items) {
    const isLit = linked.has(item.id);
    const isSelected = item.id === state.region;
    if (item.floating && !isLit && !isSelected) continue;
    const [x0, y0, x1, y1] = item.box;
    const classes = [isLit && "lit", isSelected && "selected", item.floating && "floating",
      !item.outline && "maskless", linked.size && !isLit && !isSelected && "dim"];
    const group = shape("g", {
      class: classes.filter(Boolean).join(" "), ...colours(item), "data-region": item.id,
    });
    group.append(shape("title", {}, name(item)));
    if (item.outline) {
      const scale = `scale(${width / item.outline.width} ${height / item.outline.height})`;
      group.append(shape("path", {
        class: "mask", d: item.outline.path, transform: scale, "fill-rule": "evenodd",
      }));
    }
    group.append(shape("rect", { class: "box", x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
    const label = String(item.id);
    const tag = size * (0.65 * label.length + 0.4);
    group.append(shape("g", { class: "tag" },
      shape("rect", { x: x0, y: y0, width: tag, height: 1.2 * size }),
      shape("text", {
        x: x0 + tag / 2, y: y0 + 0.97 * size, "font-size": size, "text-anchor": "middle",
      }, label)));
    group.addEventListener("click", () => { if (!state.drawing) selectRegion(item.id); });
    groups.push(group);
  }
  svg.replaceChildren(...groups);
  svg.classList.toggle("drawing", Boolean(state.drawing));
}

function imagePoint(event, svg) {
  const frame = svg.getBoundingClientRect();
  const { width, height } = state.data;
  const clip = (value, limit) => Math.min(Math.max(value, 0), limit);
  return [
    clip((event.clientX - frame.left) * (width / frame.width), width),
    clip((event.clientY - frame.top) * (height / frame.height), height),
  ].map((value) => Math.round(value * 100) / 100);
}

function startBox(event) {
  if (!state.drawing || event.button !== 0) return;
  event.preventDefault();
  const svg = event.currentTarget;
  const first = imagePoint(event, svg);
  const rubbers = ["rubber under", "rubber"].map((kind) => shape("rect", { class: kind }));
  svg.append(...rubbers);
  svg.setPointerCapture(event.pointerId);
  let box = null;
  const move = (moved) => {
    const last = imagePoint(moved, svg);
    box = [Math.min(first[0], last[0]), Math.min(first[1], last[1]),
      Math.max(first[0], last[0]), Math.max(first[1], last[1])];
    for (const rubber of rubbers) {
      rubber.setAttribute("x", box[0]);
      rubber.setAttribute("y", box[1]);
      rubber.setAttribute("width", box[2] - box[0]);
      rubber.setAttribute("height", box[3] - box[1]);
    }
  };
  const end = () => {
    svg.removeEventListener("pointermove", move);
    for (const rubber of rubbers) rubber.remove();
    const mode = state.drawing;
    if (!mode || !box || box[2] - box[0] < 2 || box[3] - box[1] < 2) return;
    stopDrawing();
    if (mode === "new") addRegion(box);
    else setBox(mode.region, box);
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerup", end, { once: true });
}

export function startDrawing(mode) {
  if (!state.draft) return;
  if (mode === "redraw" && state.region === null) {
    say("Select a region first.", true);
    return;
  }
  if (state.drawing) {
    stopDrawing();
    return;
  }
  state.drawing = mode === "new" ? "new" : { region: state.region };
  render();
}

export function stopDrawing() {
  state.drawing = null;
  render();
}

function addRegion(box) {
  const { draft } = state;
  const id = draft.newId();
  draft.change((value) => {
    const colour = Math.max(-1, ...value.objects.map((item) => item.colour)) + 1;
    value.objects.push({
      id, box, label: null, attributes: [], floating: false, score: null, votes: [],
      mask: null, mask_source: null, outline: null, colour,
    });
  });
  state.region = id;
  const phrase = currentPhrase();
  if (phrase && !phrase.ids.length) phrase.ids.push(id);
  render();
  segment(id, () => element("label").focus());
  element("label").focus();
}

export function setBox(id, box) {
  state.draft.change((value) => {
    const item = value.objects.find((other) => other.id === id);
    Object.assign(item, { box, mask: null, mask_source: null, outline: null });
  });
  render();
  segment(id);
}

// Compute the mask of a region, if there is a model for it.
async function segment(id) {
  const { draft } = state;
  const item = draft.object(id);
  if (!state.run.segmenter) {
    say(`Region ${id} has no mask: there is no segmenter (--roles). You can take the mask of `
      + "another region below, or link the phrase to another region.");
    return;
  }
  const box = JSON.stringify(item.box);
  const job = state.jobs;
  say(`${state.run.segmenter} computes the mask of region ${id} ...`);
  try {
    const result = await request("/api/mask", { image: state.data.image, box: item.box });
    const target = draft.object(id);
    if (job !== state.jobs || !target || JSON.stringify(target.box) !== box) return;
    Object.assign(target, result);
    render();
    say(`The mask of region ${id} is that of ${state.run.segmenter}.`);
  } catch (error) {
    if (job === state.jobs) say(error.message, true);
  }
}
