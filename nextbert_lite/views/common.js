// Shared by the views. Text goes into the page as text only (append, textContent), so a token "<script>" is drawn.
const HUES = {
  light: ["#0072B2", "#945600", "#008763", "#B0558B", "#2E86C1", "#C24E00", "#5F5F5F"],
  dark: ["#56B4E9", "#E69F00", "#1FC596", "#E39BC6", "#9AD1F2", "#F58A4B", "#B5B5B5"],
};
const SVG = "http://www.w3.org/2000/svg";

function put(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}
const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);

// 16-bit integers, little-endian, as the kernel or a stored notebook gives them.
function integers(model, name) {
  const raw = model.get(name);
  const view = raw instanceof DataView ? raw : new DataView(raw.buffer || raw, raw.byteOffset || 0, raw.byteLength);
  return Uint16Array.from({ length: view.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true));
}

const visible = (token) => (token.trim() ? token : "␣");
const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.001 ? "0.0 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Set a trait and tell the kernel, if there is one.
function set(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

// Call draw at first and at each change of one of the traits; return what undoes it.
function follow(model, names, draw) {
  for (const name of names) model.on(`change:${name}`, draw);
  return () => names.forEach((name) => model.off(`change:${name}`, draw));
}

// The frame of a view (in it JupyterLab leaves the keys alone): its title, light or dark after what lies behind it, and a call when its width or theme changes.
function frame(el, model, label, changed) {
  const title = model.get("title");
  const root = h("div", { class: "nbx", role: "group", "aria-label": title || label, "data-lm-suppress-shortcuts": "true" });
  if (title) root.append(h("p", { class: "nbx-title" }, title));
  el.append(root);
  let last = "";
  const look = () => {
    let node = root, colour = null;
    while (node && node.nodeType === 1 && !colour) {
      const parts = getComputedStyle(node).backgroundColor.match(/[\d.]+/g);
      if (parts && (parts.length < 4 || +parts[3] > 0.5)) colour = parts;
      node = node.parentElement || (node.getRootNode() || {}).host;
    }
    const [r, g, b] = colour || [255, 255, 255];
    const theme = 0.3 * r + 0.59 * g + 0.11 * b < 128 ? "dark" : "light";
    const now = `${r} ${g} ${b} ${root.clientWidth}`;
    if (now === last) return;
    last = now;
    root.dataset.theme = theme;
    root.style.setProperty("--bg", `rgb(${r},${g},${b})`);
    changed();
  };
  root.dataset.theme = "light";
  const size = new ResizeObserver(look);
  size.observe(root);
  const theme = new MutationObserver(look);
  for (const node of [document.documentElement, document.body]) theme.observe(node, { attributes: true });
  root.stop = () => { size.disconnect(); theme.disconnect(); };
  return root;
}
const hues = (root) => HUES[root.dataset.theme];
const ink = (root) => getComputedStyle(root).color;

// A labelled slider; text(value) is what stands beside it and what a screen reader says.
let made = 0;
function slider(label, options, text, changed) {
  const id = `nbx-${Date.now().toString(36)}-${made++}`;
  const out = h("output", { for: id });
  const input = h("input", { type: "range", id, ...options });
  const tell = () => {
    out.textContent = text(+input.value);
    input.setAttribute("aria-valuetext", out.textContent);
  };
  input.addEventListener("input", () => { tell(); changed(+input.value); });
  tell();
  const box = h("div", { class: "nbx-slider" }, h("label", { for: id }, label), input, out);
  box.move = (value) => { input.value = value; tell(); };
  return box;
}

// One tab stop for a group of buttons; arrows move in it. columns: buttons a row, for up and down.
function roving(group, buttons, columns, chosen) {
  group.addEventListener("keydown", (event) => {
    const i = buttons.indexOf(event.target.closest("button"));
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const last = buttons.length - 1;
    const j = event.key === "Home" ? 0 : event.key === "End" ? last : step ? i + step : -1;
    if (i < 0 || (!step && event.key !== "Home" && event.key !== "End")) return;
    event.preventDefault();
    if (j >= 0 && j <= last) { buttons[j].focus(); chosen(j); }
  });
  return (j) => buttons.forEach((button, i) => { button.tabIndex = i === j ? 0 : -1; });
}

function canvas2d(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

