// The list of regions, and the editor of the selected one.

import { changePhrases } from "/captions.js";
import { element, key, make, say } from "/elements.js";
import { setBox } from "/picture.js";
import { chip, currentPhrase, linkedIds, name, render, selectRegion, state } from "/state.js";

export function stepRegion(step) {
  const { objects } = state.draft.value;
  if (!objects.length) return;
  const place = objects.findIndex((item) => item.id === state.region);
  const next = place < 0 ? (step > 0 ? 0 : objects.length - 1)
    : (place + step + objects.length) % objects.length;
  selectRegion(objects[next].id);
}

export function toggleLink() {
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

export function removeRegion() {
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

export function renderRegions() {
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

export function renderEditor() {
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
    && active.matches("input, textarea")) {
    element("mask").replaceWith(maskSelect(item)); // the rest stays: somebody types in it
    return;
  }
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
  // Later, so that the focus is at the next number already.
  for (const input of numbers) input.addEventListener("change", () => setTimeout(changeBox));
  const isLinked = linkedIds().has(item.id);
  const facts = [item.floating && "found by too few models",
    item.score !== null && `score ${item.score.toFixed(2)}`, ...item.votes].filter(Boolean);
  editor.replaceChildren(
    make("label", { for: "label" }, "Label ", key("R")), label,
    make("label", { for: "attributes" }, "Attributes, one a line"), attributes,
    make("span", {}, "Box"), make("div", { class: "numbers" }, ...numbers),
    make("label", { for: "mask" }, "Mask"), maskSelect(item),
    make("div", { class: "tools wide" },
      make("button", {
        type: "button", id: "link", onclick: toggleLink, disabled: !currentPhrase(),
      }, isLinked ? "Unlink from the phrase " : "Link to the phrase ", key("L")),
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
