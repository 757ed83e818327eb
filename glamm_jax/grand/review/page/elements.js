// Elements, messages and requests. All texts enter the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const element = (id) => document.getElementById(id);

export function make(name, options = {}, ...children) {
  const node = document.createElement(name);
  fill(node, options, children);
  return node;
}

export function shape(name, options = {}, ...children) {
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

export function say(text, isError = false, ...extra) {
  const node = element("message");
  node.className = isError ? "error" : "";
  node.replaceChildren(text, ...extra);
}

export const key = (letter) => make("kbd", {}, letter);

export async function request(path, body) {
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

export const query = (fields) => new URLSearchParams(
  Object.entries(fields).filter(([, value]) => value !== null && value !== undefined)).toString();
