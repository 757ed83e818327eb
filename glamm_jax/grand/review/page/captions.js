// Captions and their phrases.

import { characters, movePhrases, toCodePoints, trimmed, words } from "/editing.js";
import { element, make, say } from "/elements.js";
import { chip, colours, currentCaption, currentPhrase, render, state } from "/state.js";

export function renderTabs() {
  element("tabs").replaceChildren(...state.draft.value.captions.map((caption, i) => make("button", {
    type: "button", role: "tab", "aria-selected": i === state.caption ? "true" : "false",
    onclick: () => selectCaption(i),
  }, caption.name)));
}

export function renderCaption() {
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

export function selectCaption(place) {
  state.caption = place;
  state.phrase = null;
  endTyping();
  render();
}

export function selectPhrase(place) {
  state.phrase = place;
  render();
}

export function editText() {
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

export function endTyping() {
  state.typing = null;
  if (state.draft) state.draft.endKind();
}

function selectedSpan() {
  const field = element("text");
  const [start, end] = [field.selectionStart, field.selectionEnd]
    .map((units) => toCodePoints(field.value, units));
  return trimmed(field.value, start, end);
}

export function newPhrase() {
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
export function changePhrases(edit, selected) {
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

export function movePhrase() {
  const span = selectedSpan();
  if (state.phrase === null) say("Select a phrase first.", true);
  else if (!span) say("Select the characters in the text field first (E).", true);
  else setSpan(...span);
}

export function moveEnd(side, direction) {
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

export function removePhrase() {
  if (state.phrase === null) {
    say("Select a phrase first.", true);
    return;
  }
  const place = state.phrase;
  changePhrases((list) => list.splice(place, 1), null);
}
