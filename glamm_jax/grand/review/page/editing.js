// The annotations of one image while they are edited: texts, spans, objects, undo.
// Spans are [start, end) in code points, as in Python; text fields count UTF-16 units.

export const characters = (text) => Array.from(text);
export const toCodePoints = (text, units) => characters(text.slice(0, units)).length;

const isWordCharacter = (character) => /[\p{L}\p{N}\p{M}_]/u.test(character || "");

// Return the phrases of a text after it was edited, and those whose text was deleted.
// `caret` is the place of the caret behind the edit, in code points: what follows it is as before.
// `typing` is what the edit before this one returned as `typing`: who deletes the end of a phrase,
// or all of it, and types on, types the phrase.
export function movePhrases(phrases, oldText, newText, caret, typing = null) {
  const before = characters(oldText);
  const after = characters(newText);
  let suffix = 0;
  while (suffix < Math.min(after.length - caret, before.length)
    && before[before.length - 1 - suffix] === after[after.length - 1 - suffix]) suffix += 1;
  let prefix = 0;
  while (prefix < Math.min(before.length, after.length) - suffix
    && before[prefix] === after[prefix]) prefix += 1;
  const oldEnd = before.length - suffix;
  const newEnd = after.length - suffix;
  const shift = newEnd - oldEnd;
  // What is typed directly at a phrase, without a blank between, continues its word.
  const continuesLeft = newEnd > prefix && isWordCharacter(after[prefix])
    && isWordCharacter(after[prefix - 1]);
  const continuesRight = newEnd > prefix && isWordCharacter(after[newEnd - 1])
    && isWordCharacter(after[newEnd]);
  const moved = [];
  const lost = [];
  let next = null;
  for (const phrase of phrases) {
    let { start, end } = phrase;
    const isTyped = typing !== null && typing.start === start && typing.end === end
      && prefix === end && oldEnd === prefix;
    if (isTyped) {
      end += shift;
    } else if (end < prefix || (end === prefix && !(continuesLeft && oldEnd === prefix))) {
      // the edit is behind it
    } else if (start > oldEnd || (start === oldEnd && !(continuesRight && oldEnd === prefix))) {
      start += shift;
      end += shift;
    } else if (start <= prefix && end >= oldEnd) {
      end += shift;
    } else if (prefix <= start && oldEnd >= end) {
      end = start;
    } else if (start < prefix) {
      end = prefix;
    } else {
      start = newEnd;
      end += shift;
    }
    const isCut = oldEnd > prefix && phrase.end === oldEnd && phrase.start <= prefix;
    if ((isTyped || isCut) && end === caret) next = { start, end };
    if (start < end) moved.push({ ...phrase, start, end });
    else lost.push(before.slice(phrase.start, phrase.end).join(""));
  }
  return { moved, lost, typing: next };
}

// Return a span without white space around it; null if nothing else is in it.
export function trimmed(text, start, end) {
  const all = characters(text);
  while (start < end && !all[start].trim()) start += 1;
  while (end > start && !all[end - 1].trim()) end -= 1;
  return start < end ? [start, end] : null;
}

// Return [start, end) of each word.
export function words(text) {
  const spans = [];
  const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
  for (const { segment, index, isWordLike } of segmenter.segment(text)) {
    if (isWordLike) {
      const start = toCodePoints(text, index);
      spans.push([start, start + characters(segment).length]);
    }
  }
  return spans;
}

// Text fields have "\n" as their only line break.
function withPlainBreaks(caption) {
  if (!caption.caption.includes("\r")) return caption;
  const all = characters(caption.caption);
  const dropped = (index) => all.slice(0, index)
    .filter((character, i) => character === "\r" && all[i + 1] === "\n").length;
  return {
    ...caption,
    caption: caption.caption.replace(/\r\n?/g, "\n"),
    phrases: caption.phrases.map((phrase) => ({
      ...phrase, start: phrase.start - dropped(phrase.start), end: phrase.end - dropped(phrase.end),
    })),
  };
}

export class Draft {
  constructor(data) {
    this.source = data;
    this.value = {
      objects: data.objects.map((item, place) => ({
        ...item, colour: place, mask: item.mask_source || item.outline ? item.id : null,
      })),
      captions: [
        { name: "Dense caption", ...withPlainBreaks(data.dense_caption) },
        ...data.short_captions.map((caption, i) => (
          { name: `Short caption ${i + 1}`, ...withPlainBreaks(caption) })),
      ],
    };
    this.value = structuredClone(this.value);
    this.nextId = data.next_id;
    this.history = [];
    this.kind = null;
    this.original = JSON.stringify(this.content());
  }

  get isChanged() { return JSON.stringify(this.content()) !== this.original; }

  get canUndo() { return this.history.length > 0; }

  // Change the value; changes of one kind that follow each other are undone together.
  change(edit, kind = null) {
    if (kind === null || kind !== this.kind) this.history.push(JSON.stringify(this.value));
    this.kind = kind;
    edit(this.value);
  }

  endKind() { this.kind = null; }

  undo() {
    this.value = JSON.parse(this.history.pop());
    this.kind = null;
  }

  object(id) { return this.value.objects.find((item) => item.id === id) || null; }

  newId() {
    const id = Math.max(this.nextId, ...this.value.objects.map((item) => item.id + 1));
    this.nextId = id + 1;
    return id;
  }

  // Return what the server takes; phrases without a region are left out.
  content() {
    const caption = ({ caption: text, phrases }) => ({
      caption: text,
      phrases: phrases.flatMap(({ start, end, ids }) => {
        const span = trimmed(text, start, end);
        return span && ids.length ? [{ start: span[0], end: span[1], ids }] : [];
      }),
    });
    const objects = this.value.objects.map((item) => ({
      id: item.id,
      box: item.box,
      label: item.label && item.label.trim() ? item.label.trim() : null,
      attributes: item.attributes.map((text) => text.trim()).filter(Boolean),
      mask: item.mask,
      mask_source: typeof item.mask === "object" && item.mask ? item.mask_source : null,
    }));
    const [dense, ...short] = this.value.captions.map(caption);
    return { objects, dense_caption: dense, short_captions: short };
  }
}
