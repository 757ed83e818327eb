// The review page: images, decisions, keys.

import {
  editText, endTyping, moveEnd, movePhrase, newPhrase, removePhrase, renderCaption, renderTabs,
  selectCaption, selectPhrase,
} from "/captions.js";
import { Draft } from "/editing.js";
import { element, key, make, query, request, say } from "/elements.js";
import { drawRegions, drawStage, startDrawing, stopDrawing } from "/picture.js";
import { removeRegion, renderEditor, renderRegions, stepRegion, toggleLink } from "/regions.js";
import { currentCaption, render, setRender, state } from "/state.js";

const SESSION = Math.random().toString(36).slice(2) + Date.now().toString(36);
const KEYS = [
  ["A", "approve, or save the correction; the next image follows"],
  ["D", "discard the image; the next image follows"],
  ["N / P", "next image with the lowest confidence / previous image"],
  ["U, Ctrl+Z", "undo the last edit; without edits, take back the last decision"],
  ["E", "edit the text of the caption"],
  ["C", "next caption"],
  ["1 to 9", "select a phrase"],
  ["M", "make a phrase of the selected text"],
  ["S", "move the selected phrase to the selected text"],
  ["Shift+\u2190 \u2192", "move the start of the phrase by a word"],
  ["Alt+\u2190 \u2192", "move the end of the phrase by a word"],
  ["[ ]", "select the previous or the next region"],
  ["L", "link the selected phrase and the selected region, or unlink them"],
  ["R", "rename the selected region"],
  ["B", "draw the box of the selected region again"],
  ["G", "draw the box of a new region"],
  ["X", "remove the selected region; if none is selected, the phrase"],
  ["H", "hide the masks, or show them"],
  ["I", "list of images"],
  ["Esc", "leave a text field, stop drawing, select nothing"],
  ["Ctrl+Enter", "approve or save, from a text field too"],
  ["?", "these keys"],
];

// ------------------------------------------------------------------ progress

async function refreshRun() {
  try {
    state.run = await request("/api/run");
  } catch (error) {
    say(error.message, true);
    return;
  }
  const { counts, images, read } = state.run;
  const done = counts.approved + counts.corrected + counts.discarded;
  const total = done + counts.unreviewed + counts.outdated;
  const isRead = read >= images;
  element("run").textContent = state.run.run;
  element("progress").max = Math.max(1, isRead ? total : images);
  element("progress").value = done;
  const missing = images - total;
  let text = `${done} of ${isRead ? total : images} reviewed`;
  if (!isRead) text += `; sorting by confidence: ${read} of ${images}`;
  else if (missing) text += `; ${missing} without annotations`;
  element("reviewed").textContent = text;
  for (const option of element("state").options) {
    const label = option.dataset.label ||= option.textContent;
    const number = option.value === "all" ? total
      : counts[option.value] + (option.value === "unreviewed" ? counts.outdated : 0);
    option.textContent = `${label} (${number})`;
  }
  if (state.run.problem) say(state.run.problem, true);
}

async function poll() {
  await refreshRun();
  const isRead = state.run && state.run.read >= state.run.images;
  setTimeout(poll, isRead ? 10000 : 1000);
}

// ------------------------------------------------------------------ images

async function show(image, { keepVisited = false } = {}) {
  state.isBusy = true;
  try {
    const data = await request(`/api/image?${query({ image, session: SESSION })}`);
    if (!keepVisited && state.data && state.data.image !== image) {
      state.visited.push(state.data.image);
    }
    Object.assign(state, {
      data, draft: new Draft(data), caption: 0, phrase: null, region: null, drawing: null,
      typing: null,
      leave: false, jobs: state.jobs + 1,
    });
    if (!data.dense_caption.caption && data.short_captions.length) state.caption = 1;
    location.hash = encodeURIComponent(image);
    drawStage();
    render();
    say(data.opened_by_other ? "Another reviewer has this image open." : "");
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  } finally {
    state.isBusy = false;
    buttons();
  }
}

async function goNext() {
  if (state.isBusy || !mayLeave()) return;
  await openNext();
}

async function openNext() {
  try {
    const current = state.data ? state.data.image : null;
    const { image } = await request(
      `/api/next?${query({ state: element("state").value, session: SESSION, current })}`);
    if (image !== null) {
      await show(image);
    } else if (state.data) {
      await show(state.data.image, { keepVisited: true });
      say("There are no other images in this state.");
    } else {
      say("There are no images in this state.");
    }
  } catch (error) {
    say(error.message, true);
  }
}

async function goPrevious() {
  if (state.isBusy || !mayLeave()) return;
  const image = state.visited.pop();
  if (image === undefined) say("This is the first image that you opened.");
  else await show(image, { keepVisited: true });
}

// Whether the image may be left: edits are left only when it is asked for twice.
function mayLeave() {
  if (!state.draft || !state.draft.isChanged || state.leave) return true;
  state.leave = true;
  say("There are edits that are not saved: save them (A), or press the same again to drop them.",
    true);
  return false;
}

// ------------------------------------------------------------------ decisions

async function decide(action) {
  if (state.isBusy || !state.draft) return;
  const author = element("author").value.trim();
  if (!author) {
    element("author").focus();
    say("Enter your name first: decisions are saved with it.", true);
    return;
  }
  const { image, base, record } = state.data;
  const body = { image, base, record, author, action };
  if (action === "approve" && state.draft.isChanged) {
    body.action = "correct";
    body.content = state.draft.content();
  }
  if (action === "discard" && !mayLeave()) return;
  state.isBusy = true;
  buttons();
  try {
    const result = await request("/api/decide", body);
    state.decided.push(image);
    state.draft = new Draft(state.data); // nothing is unsaved
    state.data.base = result.base;
    await refreshRun();
    state.isBusy = false;
    await openNext();
    const done = { approve: "Approved", correct: "Saved", discard: "Discarded" }[result.action];
    say(`${done}: ${image}`);
  } catch (error) {
    fail(error, image);
  } finally {
    state.isBusy = false;
    buttons();
  }
}

function fail(error, image) {
  const extra = error.status === 409
    ? [make("button", { type: "button", onclick: () => show(image, { keepVisited: true }) },
      "Show the newer version")]
    : [];
  say(error.message, true, ...extra);
}

async function undo() {
  if (state.isBusy || !state.draft) return;
  if (state.draft.canUndo) {
    state.draft.undo();
    if (state.region !== null && !state.draft.object(state.region)) state.region = null;
    state.phrase = null;
    state.jobs += 1;
    drawStage();
    render();
    say("The last edit was undone.");
    return;
  }
  const image = state.decided.length ? state.decided[state.decided.length - 1] : state.data.image;
  const author = element("author").value.trim();
  if (image !== state.data.image && !(await show(image))) return;
  if (!state.data.can_undo) {
    state.decided.pop();
    say("There is nothing to undo.");
    return;
  }
  try {
    const { base, record } = state.data;
    await request("/api/decide", { image, base, record, author, action: "undo" });
    state.decided.pop();
    await refreshRun();
    await show(image, { keepVisited: true });
    say(`The last decision about ${image} was taken back.`);
  } catch (error) {
    fail(error, image);
  }
}

// ------------------------------------------------------------------ rendering

function renderTitle() {
  const { image, review, confidence, reasons, errors, decisions } = state.data;
  element("image").textContent = image;
  document.title = `${image} \u2013 Review`;
  const badge = element("image-state");
  badge.hidden = !review;
  badge.className = `badge ${review ? review.state : ""}`;
  badge.textContent = review ? `${review.state} by ${review.authors.join(", ")}` : "";
  const notes = [`confidence ${confidence.toPrecision(2)}`, ...reasons, ...errors];
  if (review && review.state === "outdated") {
    notes.unshift("the decisions are about earlier annotations, and do not apply");
  }
  element("image-note").textContent = notes.join("; ");
  badge.title = decisions.map((x) => `${x.time} ${x.author}: ${x.action}`).join("\n");
}

function drawPage() {
  state.leave = false; // edits after the warning are warned about again
  renderTitle();
  renderTabs();
  renderCaption();
  renderRegions();
  renderEditor();
  drawRegions();
  buttons();
}

function buttons() {
  const hasImage = Boolean(state.draft);
  const isChanged = hasImage && state.draft.isChanged;
  if (!isChanged) state.leave = false;
  element("approve").firstChild.textContent = isChanged ? "Save correction " : "Approve ";
  for (const id of ["approve", "discard"]) element(id).disabled = !hasImage || state.isBusy;
  element("undo").disabled = !hasImage
    || !(state.draft.canUndo || state.decided.length || state.data.can_undo);
  const drawing = state.drawing;
  element("redraw").setAttribute("aria-pressed", drawing && drawing !== "new" ? "true" : "false");
  element("redraw").disabled = !hasImage || state.region === null;
  element("new-region").setAttribute("aria-pressed", drawing === "new" ? "true" : "false");
  element("draw-hint").textContent = drawing ? "Drag a box on the image; Esc stops." : "";
  for (const id of ["move-phrase", "remove-phrase", "start-left", "start-right", "end-left",
    "end-right"]) element(id).disabled = !hasImage || state.phrase === null;
}

// ------------------------------------------------------------------ the list of images

// The name of a state as the filter shows it, without the number of images.
const stateName = (value) => [...element("state").options]
  .find((option) => option.value === value).dataset.label;

async function fillList(offset) {
  const fields = { state: element("state").value, offset, limit: 100 };
  try {
    const { total, items } = await request(`/api/list?${query(fields)}`);
    const rows = items.map(({ image, confidence, state: itemState }) => make("tr", {},
      make("td", {}, make("button", {
        type: "button",
        onclick: () => {
          if (!mayLeave()) return;
          element("list").close();
          show(image);
        },
      }, image)), make("td", {}, confidence.toPrecision(2)), make("td", {}, stateName(itemState))));
    if (offset) element("rows").append(...rows);
    else element("rows").replaceChildren(...rows);
    state.listed = offset + items.length;
    element("more").hidden = state.listed >= total;
    element("list-title").textContent = `Images: ${state.listed} of ${total}`;
  } catch (error) {
    say(error.message, true);
  }
}

function openList() {
  element("list").showModal();
  fillList(0);
}

// ------------------------------------------------------------------ keys

const ACTIONS = {
  a: () => decide("approve"),
  d: () => decide("discard"),
  n: goNext,
  p: goPrevious,
  u: undo,
  e: () => element("text").focus(),
  c: () => selectCaption((state.caption + 1) % state.draft.value.captions.length),
  m: newPhrase,
  s: movePhrase,
  "[": () => stepRegion(-1),
  "]": () => stepRegion(1),
  l: toggleLink,
  r: () => (state.region === null ? say("Select a region first.", true)
    : element("label").select()),
  b: () => startDrawing("redraw"),
  g: () => startDrawing("new"),
  x: () => (state.region === null ? removePhrase() : removeRegion()),
  h: toggleMasks,
  i: openList,
  "?": () => element("help").showModal(),
};
const WITHOUT_IMAGE = ["n", "p", "i", "?"];

function toggleMasks() {
  const isHidden = element("stage").classList.toggle("without-masks");
  element("hide").setAttribute("aria-pressed", isHidden ? "true" : "false");
}

function escape() {
  if (state.drawing) {
    stopDrawing();
  } else if (document.activeElement.matches("input, textarea, select")) {
    document.activeElement.blur();
  } else if (state.draft) {
    state.region = null;
    state.phrase = null;
    render();
  }
}

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches("input:not([type=checkbox]), textarea, select");
  const isControl = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    escape();
    return;
  }
  if (isControl && event.key === "Enter") {
    event.preventDefault();
    decide("approve");
    return;
  }
  if (isTyping) return;
  if (isControl && event.key.toLowerCase() === "z" && !event.shiftKey) {
    event.preventDefault();
    undo();
    return;
  }
  if (isControl || !element("shortcuts").checked) return;
  const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (arrow && state.draft && (event.shiftKey || event.altKey)) {
    event.preventDefault();
    moveEnd(event.shiftKey ? "start" : "end", arrow);
    return;
  }
  if (event.altKey) return;
  const letter = event.key.toLowerCase();
  if (/^[1-9]$/.test(letter) && state.draft) {
    const place = Number(letter) - 1;
    if (place < currentCaption().phrases.length) selectPhrase(place);
    return;
  }
  const action = ACTIONS[letter];
  if (!action || (!state.draft && !WITHOUT_IMAGE.includes(letter))) return;
  event.preventDefault();
  action();
}

// ------------------------------------------------------------------ start

const storage = {
  get(field) { try { return localStorage.getItem(field); } catch { return null; } },
  set(field, value) { try { localStorage.setItem(field, value); } catch { /* not allowed */ } },
};

function listen() {
  const clicks = {
    approve: "a", discard: "d", next: "n", previous: "p", undo: "u", redraw: "b",
    "new-region": "g", hide: "h", "new-phrase": "m", "move-phrase": "s", "show-list": "i",
    "show-help": "?",
  };
  for (const [id, letter] of Object.entries(clicks)) {
    element(id).addEventListener("click", () => ACTIONS[letter]());
  }
  // A click must not take the selection of the text field away.
  for (const id of ["new-phrase", "move-phrase"]) {
    element(id).addEventListener("mousedown", (event) => event.preventDefault());
  }
  element("remove-phrase").addEventListener("click", removePhrase);
  for (const side of ["start", "end"]) {
    element(`${side}-left`).addEventListener("click", () => moveEnd(side, -1));
    element(`${side}-right`).addEventListener("click", () => moveEnd(side, 1));
  }
  element("text").addEventListener("input", editText);
  element("text").addEventListener("blur", endTyping);
  element("more").addEventListener("click", () => fillList(state.listed));
  element("close-list").addEventListener("click", () => element("list").close());
  element("close-help").addEventListener("click", () => element("help").close());
  element("state").addEventListener("change", () => { element("state").blur(); goNext(); });
  element("author").addEventListener("change",
    () => storage.set("author", element("author").value.trim()));
  element("shortcuts").checked = storage.get("shortcuts") !== "off";
  element("shortcuts").addEventListener("change",
    () => storage.set("shortcuts", element("shortcuts").checked ? "on" : "off"));
  element("keys").replaceChildren(...KEYS.map(([keys, text]) => make("tr", {},
    make("th", { scope: "row" }, key(keys)), make("td", {}, text))));
  document.addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => {
    if (state.draft && state.draft.isChanged) event.preventDefault();
  });
}

async function start() {
  setRender(drawPage);
  listen();
  await refreshRun();
  if (!state.run) return;
  element("author").value = storage.get("author") || state.run.author;
  let wanted = "";
  try {
    wanted = decodeURIComponent(location.hash.slice(1));
  } catch { /* not the name of an image */ }
  if (!wanted || !(await show(wanted))) await openNext();
  poll();
}

start();
