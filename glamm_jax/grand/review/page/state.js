// The state of the page, which its parts share.

import { make } from "/elements.js";

export const state = {
  run: null, data: null, draft: null, caption: 0, phrase: null, region: null, drawing: null,
  typing: null, isBusy: false, decided: [], visited: [], leave: false, listed: 0, jobs: 0,
};

let draw = () => {};

// Register the function that draws the page after every change.
export function setRender(render) { draw = render; }

export function render() { draw(); }

export function colours(item) {
  const { palette } = state.run;
  const { ground, ink } = palette[item.colour % palette.length];
  return { "--c": ground, "--on": ink };
}

export const name = (item) => `${item.id} ${item.label || "without a label"}`;

export function chip(id) {
  const item = state.draft.object(id);
  return make("span", { class: "chip", ...(item ? colours(item) : {}) }, String(id));
}

export const currentCaption = () => state.draft.value.captions[state.caption];

export function currentPhrase() {
  return state.draft && state.phrase !== null ? currentCaption().phrases[state.phrase] || null
    : null;
}

export function linkedIds() {
  const phrase = currentPhrase();
  return new Set(phrase ? phrase.ids : []);
}

export function selectRegion(id) {
  state.region = id;
  render();
}
