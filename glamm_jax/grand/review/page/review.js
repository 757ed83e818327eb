// The review page. All texts enter it as text, never as markup.

import { Draft, characters, movePhrases, toCodePoints, toUnits, trimmed, words } from "/editing.js";

const SVG = "http://www.w3.org/2000/svg";
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
const element = (id) => document.getElementById(id);
const state = {
  run: null, data: null, draft: null, caption: 0, phrase: null, region: null, drawing: null,
  typing: null, isBusy: false, decided: [], visited: [], leave: false, listed: 0, jobs: 0,
};

// ------------------------------------------------------------------ elements

function make(name, options = {}, ...children) {
  const node = document.createElement(name);
  fill(node, options, children);
  return node;
}

function shape(name, options = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  fill(node, options, children);
  return node;
}

function fill(node, options, children) {
  for (const [key, value] of Object.entries(options)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
}

function colours(item) {
  const { palette } = state.run;
  const { ground, ink } = palette[item.colour % palette.length];
  return { "--c": ground, "--on": ink };
}

function say(text, isError = false, ...extra) {
  const node = element("message");
  node.className = isError ? "error" : "";
  node.replaceChildren(text, ...extra);
}

const key = (letter) => make("kbd", {}, letter);

// ------------------------------------------------------------------ requests

async function request(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw Object.assign(new Error("the server does not answer; is it still running?"), {
      status: 0,
    });
  }
  const result = await response.json();
  if (!response.ok) throw Object.assign(new Error(result.error), { status: response.status });
  return result;
}

const query = (fields) => new URLSearchParams(
  Object.entries(fields).filter(([, value]) => value !== null && value !== undefined)).toString();

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

// ------------------------------------------------------------------ the image

function drawStage() {
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

function linkedIds() {
  const phrase = currentPhrase();
  return new Set(phrase ? phrase.ids : []);
}

function drawRegions() {
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

const name = (item) => `${item.id} ${item.label || "without a label"}`;

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

function startDrawing(mode) {
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

function stopDrawing() {
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

function setBox(id, box) {
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

// ------------------------------------------------------------------ captions

const currentCaption = () => state.draft.value.captions[state.caption];

function currentPhrase() {
  return state.draft && state.phrase !== null ? currentCaption().phrases[state.phrase] || null
    : null;
}

function renderTabs() {
  element("tabs").replaceChildren(...state.draft.value.captions.map((caption, i) => make("button", {
    type: "button", role: "tab", "aria-selected": i === state.caption ? "true" : "false",
    onclick: () => selectCaption(i),
  }, caption.name)));
}

function renderCaption() {
  const { caption: text, phrases, other_phrases: others } = currentCaption();
  const all = characters(text);
  const cuts = new Set([0, all.length]);
  for (const { start, end } of phrases) cuts.add(start).add(end);
  const edges = [...cuts].sort((a, b) => a - b);
  const nodes = [];
  for (let i = 0; i + 1 < edges.length; i += 1) {
    const [start, end] = [edges[i], edges[i + 1]];
    // Of phrases inside each other, the shortest is shown.
    const inside = phrases.map((phrase, place) => ({ phrase, place }))
      .filter(({ phrase }) => phrase.start <= start && end <= phrase.end)
      .sort((a, b) => (a.phrase.end - a.phrase.start) - (b.phrase.end - b.phrase.start));
    const piece = all.slice(start, end).join("");
    if (inside.length) nodes.push(phraseNode(piece, inside[0].phrase, inside[0].place));
    else nodes.push(piece);
    for (const phrase of phrases) {
      if (phrase.end === end) nodes.push(...phrase.ids.map(chip));
    }
  }
  if (!text) nodes.push(make("span", { class: "hint" }, "There is no caption."));
  element("caption").replaceChildren(...nodes);
  const field = element("text");
  if (field.value !== text) field.value = text;
  const notes = [];
  const unlinked = phrases.filter((phrase) => !phrase.ids.length).length;
  if (unlinked) notes.push("Phrases without a region (dashed) are not saved.");
  if (others.length) {
    notes.push(`Not in the text, and left out of a corrected caption: ${others.join("; ")}.`);
  }
  if (state.caption === 0) notes.push(denseNote());
  element("caption-note").textContent = notes.filter(Boolean).join(" ");
}

function denseNote() {
  const { dense_source: source, verified } = state.data;
  if (source === "template") return "The template wrote this caption.";
  if (source === "reviewer") return "A reviewer wrote this caption.";
  if (source === null) return "";
  if (verified === null) return "This caption was not checked.";
  return verified ? "" : "The check failed: the caption names what the scene graph does not have.";
}

function phraseNode(text, phrase, place) {
  const item = phrase.ids.length ? state.draft.object(phrase.ids[0]) : null;
  const classes = ["phrase", !item && "unlinked", place === state.phrase && "selected"];
  const select = () => selectPhrase(place === state.phrase ? null : place);
  return make("span", {
    class: classes.filter(Boolean).join(" "), role: "button", tabindex: "0",
    "aria-pressed": place === state.phrase ? "true" : "false", "data-phrase": place,
    ...(item ? colours(item) : {}), onclick: select,
    onkeydown: (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        event.stopPropagation();
        select();
      }
    },
  }, text);
}

function chip(id) {
  const item = state.draft.object(id);
  return make("span", { class: "chip", ...(item ? colours(item) : {}) }, String(id));
}

function selectCaption(place) {
  state.caption = place;
  state.phrase = null;
  endTyping();
  render();
}

function selectPhrase(place) {
  state.phrase = place;
  render();
}

function editText() {
  const field = element("text");
  const caption = currentCaption();
  if (field.value === caption.caption) return;
  const caret = toCodePoints(field.value, field.selectionStart);
  const { moved, lost, typing } = movePhrases(
    caption.phrases, caption.caption, field.value, caret, state.typing);
  state.typing = typing;
  const selected = currentPhrase();
  state.draft.change((value) => {
    Object.assign(value.captions[state.caption], { caption: field.value, phrases: moved });
  }, `text ${state.caption}`);
  if (selected) state.phrase = lost.length ? null : state.phrase;
  render();
  if (lost.length) {
    say(`Removed with its text: the phrase \u201c${lost.join("\u201d, \u201c")}\u201d. `
      + "Undo brings it back.");
  }
}

function endTyping() {
  state.typing = null;
  if (state.draft) state.draft.endKind();
}

function selectedSpan() {
  const field = element("text");
  const [start, end] = [field.selectionStart, field.selectionEnd]
    .map((units) => toCodePoints(field.value, units));
  return trimmed(field.value, start, end);
}

function newPhrase() {
  const span = selectedSpan();
  if (!span) {
    say("Select the characters of the phrase in the text field first (E).", true);
    return;
  }
  const [start, end] = span;
  const { phrases } = currentCaption();
  const old = phrases.findIndex((phrase) => phrase.start === start && phrase.end === end);
  if (old >= 0) {
    selectPhrase(old);
    return;
  }
  const ids = state.region === null ? [] : [state.region];
  changePhrases((list) => list.push({ start, end, ids }), { start, end });
  say(ids.length ? `The phrase is linked to region ${ids[0]}.`
    : "Select a region, and link it to the phrase (L).");
}

function setSpan(start, end) {
  const { phrases } = currentCaption();
  if (phrases.some((other, i) => i !== state.phrase && other.start === start
    && other.end === end)) {
    say("Another phrase has these characters.", true);
    return;
  }
  const place = state.phrase;
  changePhrases((list) => Object.assign(list[place], { start, end }), { start, end });
}

// Change the phrases of the caption; then select the one with these ends.
function changePhrases(edit, selected) {
  const place = state.caption;
  state.draft.change((value) => {
    const { phrases } = value.captions[place];
    edit(phrases);
    phrases.sort((a, b) => a.start - b.start || a.end - b.end);
  });
  const { phrases } = currentCaption();
  const index = selected
    ? phrases.findIndex(({ start, end }) => start === selected.start && end === selected.end) : -1;
  state.phrase = index < 0 ? null : index;
  render();
}

function movePhrase() {
  const span = selectedSpan();
  if (state.phrase === null) say("Select a phrase first.", true);
  else if (!span) say("Select the characters in the text field first (E).", true);
  else setSpan(...span);
}

function moveEnd(side, direction) {
  const phrase = currentPhrase();
  if (!phrase) {
    say("Select a phrase first.", true);
    return;
  }
  const list = words(currentCaption().caption);
  let { start, end } = phrase;
  if (side === "start") {
    const edges = list.map(([first]) => first);
    start = direction < 0 ? edges.filter((edge) => edge < start).pop()
      : edges.find((edge) => edge > start);
  } else {
    const edges = list.map(([, last]) => last);
    end = direction < 0 ? edges.filter((edge) => edge < end).pop()
      : edges.find((edge) => edge > end);
  }
  if (start === undefined || end === undefined || start >= end) return;
  setSpan(start, end);
}

function removePhrase() {
  if (state.phrase === null) {
    say("Select a phrase first.", true);
    return;
  }
  const place = state.phrase;
  changePhrases((list) => list.splice(place, 1), null);
}

// ------------------------------------------------------------------ regions

function selectRegion(id) {
  state.region = id;
  render();
}

function stepRegion(step) {
  const { objects } = state.draft.value;
  if (!objects.length) return;
  const place = objects.findIndex((item) => item.id === state.region);
  const next = place < 0 ? (step > 0 ? 0 : objects.length - 1)
    : (place + step + objects.length) % objects.length;
  selectRegion(objects[next].id);
}

function toggleLink() {
  const phrase = currentPhrase();
  if (!phrase || state.region === null) {
    say("Select a phrase and a region first.", true);
    return;
  }
  const { start, end } = phrase;
  const id = state.region;
  const isLinked = phrase.ids.includes(id);
  const place = state.phrase;
  changePhrases((list) => {
    const { ids } = list[place];
    if (isLinked) ids.splice(ids.indexOf(id), 1);
    else ids.push(id);
  }, { start, end });
  say(isLinked ? `Region ${id} is not linked to the phrase any more.`
    : `Region ${id} is linked to the phrase.`);
}

function removeRegion() {
  const id = state.region;
  state.draft.change((value) => {
    value.objects = value.objects.filter((item) => item.id !== id);
    for (const { phrases } of value.captions) {
      for (const phrase of phrases) phrase.ids = phrase.ids.filter((other) => other !== id);
    }
  });
  state.region = null;
  render();
}

function renderRegions() {
  const linked = linkedIds();
  const phrase = currentPhrase();
  element("link-hint").textContent = (phrase ? "check mark: linked to the selected phrase"
    : "select a phrase to see its regions")
    + (state.draft.value.objects.some((item) => item.floating)
      ? "; dashed: found by too few models" : "");
  element("regions").replaceChildren(...state.draft.value.objects.map((item) => make("li", {},
    make("button", {
      type: "button", "aria-pressed": item.id === state.region ? "true" : "false",
      class: [item.floating && "floating", linked.has(item.id) && "linked"].filter(Boolean)
        .join(" "),
      "data-region": item.id, onclick: () => selectRegion(item.id),
    }, chip(item.id), make("span", {}, item.label || "without a label")))));
}

function renderEditor() {
  const editor = element("editor");
  const item = state.region === null ? null : state.draft.object(state.region);
  editor.hidden = !item;
  if (!item) {
    editor.replaceChildren();
    editor.dataset.region = "";
    return;
  }
  const active = document.activeElement;
  if (editor.dataset.region === String(item.id) && editor.contains(active)
    && active.matches("input, textarea")) return; // somebody types in it
  editor.dataset.region = item.id;
  const { draft } = state;
  const edit = (field, read) => (event) => {
    draft.change(() => { item[field] = read(event.target.value); }, `${field} ${item.id}`);
    render();
  };
  const label = make("input", { id: "label", maxlength: "500", value: item.label || "" });
  label.addEventListener("input", edit("label", (text) => text || null));
  const attributes = make("textarea", { id: "attributes", rows: "2" });
  attributes.value = item.attributes.join("\n");
  attributes.addEventListener("input", edit("attributes", (text) => text.split("\n")));
  const numbers = ["left", "top", "right", "bottom"].map((title, i) => make("input", {
    type: "number", step: "any", "aria-label": title, title, value: item.box[i],
  }));
  const changeBox = () => {
    const box = numbers.map((input) => Number(input.value));
    const { width, height } = state.data;
    if (box.every(Number.isFinite) && box[0] >= 0 && box[1] >= 0 && box[0] < box[2]
      && box[1] < box[3] && box[2] <= width && box[3] <= height) {
      if (JSON.stringify(box) !== JSON.stringify(item.box)) setBox(item.id, box);
    } else {
      say(`A box is left < right and top < bottom, inside of ${width} x ${height} pixels.`, true);
    }
  };
  for (const input of numbers) input.addEventListener("change", changeBox);
  const isLinked = linkedIds().has(item.id);
  const facts = [item.floating && "found by too few models",
    item.score !== null && `score ${item.score.toFixed(2)}`, ...item.votes].filter(Boolean);
  editor.replaceChildren(
    make("label", { for: "label" }, "Label ", key("R")), label,
    make("label", { for: "attributes" }, "Attributes, one a line"), attributes,
    make("span", {}, "Box"), make("div", { class: "numbers" }, ...numbers),
    make("label", { for: "mask" }, "Mask"), maskSelect(item),
    make("div", { class: "tools wide" },
      make("button", { type: "button", id: "link", onclick: toggleLink, disabled: !currentPhrase() },
        isLinked ? "Unlink from the phrase " : "Link to the phrase ", key("L")),
      make("button", { type: "button", id: "remove-region", onclick: removeRegion },
        "Remove region ", key("X"))),
    facts.length ? make("small", { class: "wide" }, facts.join("; ")) : null,
  );
}

function maskSelect(item) {
  const { objects } = state.draft.value;
  const options = [["now", item.outline ? `of ${item.mask_source || "the models"}` : "none"]];
  if (item.outline) options.push(["none", "none"]);
  if (state.run.segmenter) options.push(["segment", `compute with ${state.run.segmenter}`]);
  for (const other of objects) {
    if (other.id !== item.id && other.outline) {
      options.push([String(other.id), `box and mask of region ${name(other)}`]);
    }
  }
  const select = make("select", { id: "mask" },
    ...options.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => {
    const { value } = select;
    if (value === "segment") {
      setBox(item.id, [...item.box]);
    } else if (value !== "now") {
      const other = value === "none" ? null : state.draft.object(Number(value));
      state.draft.change(() => Object.assign(item, other
        ? { box: [...other.box], mask: other.mask, mask_source: other.mask_source,
          outline: other.outline }
        : { mask: null, mask_source: null, outline: null }));
      render();
    }
  });
  return select;
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

function render() {
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
