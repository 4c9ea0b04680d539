function render({ model, el }) {
  const names = model.get("names"), labels = model.get("labels"), texts = model.get("texts"), N = texts.length;
  const raw = integers(model, "points"), near = integers(model, "neighbours"), cosines = integers(model, "cosines");
  const bytes = model.get("label_of");
  const labelOf = new Uint8Array(bytes.buffer || bytes, bytes.byteOffset || 0, N);
  const K = near.length / names.length / N;
  const shown = labels.map(() => true);
  let zoom = 1, middle = [0.5, 0.5], pointed = -1, size = [300, 300], playing = 0, dragged = null;
  const points = document.createElement("canvas"); // what does not change while one points
  const x = new Float32Array(N), y = new Float32Array(N); // in pixels

  const root = frame(el, model, "Embedding explorer", () => resize());
  const map = h("canvas", { class: "nbx-canvas", tabindex: 0, role: "application", "aria-roledescription": "map of texts",
    "aria-label": `${N} texts${labels.length > 1 ? " of " + labels.length + " labels" : ""}. Arrow keys go to the next text in that direction, Enter to the nearest neighbour, plus and minus zoom, 0 shows all, Escape lets go.` });
  const button = (label, name, act) => h("button", { type: "button", "aria-label": name, title: name, onclick: act }, label);
  const controls = h("div", { class: "nbx-row" }, button("+", "zoom in", () => scale(1.5)), button("−", "zoom out", () => scale(1 / 1.5)),
    button("show all", "show all", reset));
  const blend = names.length < 2 ? null : slider(`${names[0]} → ${names[1]}`, { min: 0, max: 1, step: 0.01, value: model.get("mix") },
    (t) => (t === 0 ? names[0] : t === 1 ? names[1] : `${Math.round(100 * t)} %`), (t) => { playing = 0; set(model, { mix: t }); });
  if (blend) controls.append(button("▶ play", `play from ${names[0]} to ${names[1]}`, play), blend);
  const legend = h("div", { class: "nbx-row nbx-legend", role: "group", "aria-label": "labels that are shown" });
  const keys = labels.map((label, i) => {
    const count = labelOf.reduce((sum, l) => sum + (l === i), 0);
    const mark = h("canvas", { width: 14, height: 14, "aria-hidden": "true" });
    const key = h("button", { type: "button", "aria-pressed": true, onclick: () => {
      shown[i] = !shown[i];
      key.setAttribute("aria-pressed", shown[i]);
      draw();
    } }, mark, `${label} (${count})`);
    return key;
  });
  legend.append(...keys);
  const status = h("div", { class: "nbx-status", role: "status" });
  const neighbours = h("ol", { class: "nbx-near" });
  const hint = h("p", { class: "nbx-note" }, "Point at a text; drag to move, the buttons or Ctrl and the wheel zoom. The labels are switches. The neighbours are the nearest by cosine in all dimensions, not on this map.");
  root.append(controls, legend, map, hint, status, neighbours);

  function mark(context, i, px, py, r) {
    const shape = i % 5;
    if (shape === 0) { context.moveTo(px + r, py); context.arc(px, py, r, 0, 7); }
    else if (shape === 1) context.rect(px - r * 0.9, py - r * 0.9, r * 1.8, r * 1.8);
    else {
      const turn = shape === 2 ? -1 : 1;
      const corners = shape === 3 ? [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]] : [[0, 1.2 * turn], [1.2, -0.9 * turn], [-1.2, -0.9 * turn]];
      corners.forEach(([a, b], n) => context[n ? "lineTo" : "moveTo"](px + a * r, py + b * r));
      context.closePath();
    }
  }
  const which = () => (names.length > 1 && model.get("mix") > 0.5 ? 1 : 0);
  const current = () => (pointed >= 0 ? pointed : model.get("selected"));

  function place() {
    const t = names.length > 1 ? model.get("mix") : 0, [w, high] = size, unit = (Math.min(w, high) - 24) * zoom;
    for (let i = 0; i < N; i++) {
      let a = raw[2 * i], b = raw[2 * i + 1];
      if (t) { a += (raw[2 * (N + i)] - a) * t; b += (raw[2 * (N + i) + 1] - b) * t; }
      x[i] = w / 2 + (a / 65535 - middle[0]) * unit;
      y[i] = high / 2 - (b / 65535 - middle[1]) * unit;
    }
  }
  const radius = () => clamp(60 / Math.sqrt(N), 1.8, 4.5) * Math.sqrt(zoom);
  function draw() { // all points, from one stamp for each label
    place();
    const [w, high] = size, context = canvas2d(points, w, high), r = radius(), side = 3 * r, colours = hues(root);
    const stamps = labels.map((_, l) => {
      const canvas = document.createElement("canvas"), ink = canvas2d(canvas, side, side);
      ink.beginPath();
      mark(ink, l, side / 2, side / 2, r);
      ink.fillStyle = colours[l % 7];
      ink.fill();
      return canvas;
    });
    context.globalAlpha = 0.75;
    for (let i = 0; i < N; i++) if (shown[labelOf[i]] && x[i] > -side && x[i] < w + side && y[i] > -side && y[i] < high + side)
      context.drawImage(stamps[labelOf[i]], x[i] - side / 2, y[i] - side / 2, side, side);
    point();
  }
  function point() { // the points as they were drawn, and over them the chosen one with its neighbours
    const [w, high] = size, context = canvas2d(map, w, high), r = radius(), one = current();
    context.drawImage(points, 0, 0, w, high);
    if (one >= 0) {
      context.strokeStyle = context.fillStyle = ink(root);
      for (let n = 0; n < K; n++) {
        const j = near[(which() * N + one) * K + n];
        context.beginPath();
        context.moveTo(x[one], y[one]);
        context.lineTo(x[j], y[j]);
        context.globalAlpha = 0.6;
        context.stroke();
        context.globalAlpha = 1;
        context.beginPath();
        mark(context, labelOf[j], x[j], y[j], r + 1.5);
        context.stroke();
      }
      context.beginPath();
      mark(context, labelOf[one], x[one], y[one], r + 3);
      context.lineWidth = 2.5;
      context.stroke();
    }
  }
  let told = "";
  function tell() {
    const one = current(), key = `${one} ${which()}`;
    point();
    if (key === told) return;
    told = key;
    if (one < 0) {
      status.textContent = "No text is chosen.";
      neighbours.replaceChildren();
      return;
    }
    status.replaceChildren(h("strong", {}, labels[labelOf[one]]), ` · ${texts[one]}`,
      h("div", { class: "nbx-note" }, `nearest neighbours${names.length > 1 ? " " + names[which()] : ""}, of the same label: `
        + `${Array.from({ length: K }, (_, n) => labelOf[near[(which() * N + one) * K + n]] === labelOf[one]).filter(Boolean).length} of ${K}`));
    neighbours.replaceChildren(...Array.from({ length: K }, (_, n) => {
      const at = (which() * N + one) * K + n, j = near[at];
      return h("li", {}, h("button", { type: "button", onclick: () => choose(j) }, `${((2 * cosines[at]) / 65535 - 1).toFixed(2)} `, h("strong", {}, labels[labelOf[j]]), ` · ${texts[j]}`));
    }));
  }
  const choose = (i) => { pointed = -1; set(model, { selected: i }); };

  function find(px, py, reach) { // 10,000 distances take a tenth of a millisecond
    let best = -1, least = reach * reach;
    for (let i = 0; i < N; i++) {
      if (!shown[labelOf[i]]) continue;
      const d = (x[i] - px) ** 2 + (y[i] - py) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  const where = (event) => { const box = map.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  map.addEventListener("pointermove", (event) => {
    const [px, py] = where(event);
    if (dragged) {
      const unit = (Math.min(...size) - 24) * zoom;
      middle = [dragged.middle[0] - (px - dragged.at[0]) / unit, dragged.middle[1] + (py - dragged.at[1]) / unit];
      if (Math.hypot(px - dragged.at[0], py - dragged.at[1]) > 4) dragged.moved = true;
      return draw();
    }
    const found = find(px, py, 14);
    if (found !== pointed) { pointed = found; tell(); }
  });
  map.addEventListener("pointerdown", (event) => { dragged = { at: where(event), middle }; map.setPointerCapture(event.pointerId); });
  map.addEventListener("pointerup", (event) => {
    const moved = dragged && dragged.moved;
    dragged = null;
    if (!moved) choose(find(...where(event), 14));
  });
  map.addEventListener("pointercancel", () => { dragged = null; });
  map.addEventListener("pointerleave", () => { if (!dragged && pointed >= 0) { pointed = -1; tell(); } });
  map.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    scale(event.deltaY < 0 ? 1.2 : 1 / 1.2, where(event));
  }, { passive: false });
  map.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], one = model.get("selected");
    if (way) step(way, one);
    else if (event.key === "Enter" && one >= 0 && K) choose(near[(which() * N + one) * K]);
    else if (event.key === "+" || event.key === "=") scale(1.5);
    else if (event.key === "-") scale(1 / 1.5);
    else if (event.key === "0") reset();
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });
  function step([dx, dy], one) { // the nearest text in that direction; the nearest to the middle at first
    if (one < 0) return choose(find(size[0] / 2, size[1] / 2, 1e6));
    let best = -1, least = Infinity;
    for (let i = 0; i < N; i++) {
      const ax = x[i] - x[one], ay = y[i] - y[one], ahead = ax * dx + ay * dy, aside = Math.abs(ax * dy - ay * dx);
      if (!shown[labelOf[i]] || ahead <= 0 || aside > ahead) continue;
      if (ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
    }
    if (best >= 0) choose(best);
  }
  function scale(by, [px, py] = [size[0] / 2, size[1] / 2]) {
    const before = (Math.min(...size) - 24) * zoom;
    zoom = clamp(zoom * by, 0.5, 60);
    const after = (Math.min(...size) - 24) * zoom, dx = px - size[0] / 2, dy = py - size[1] / 2;
    middle = [middle[0] + dx / before - dx / after, middle[1] - dy / before + dy / after];
    draw();
  }
  function reset() { zoom = 1; middle = [0.5, 0.5]; draw(); }
  function play() {
    const run = ++made, start = performance.now();
    playing = run;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return set(model, { mix: model.get("mix") < 1 ? 1 : 0 });
    const tick = (now) => {
      if (playing !== run) return;
      const t = clamp((now - start) / 2000, 0, 1);
      model.set("mix", t * t * (3 - 2 * t));
      if (t < 1) requestAnimationFrame(tick);
      else model.save_changes();
    };
    requestAnimationFrame(tick);
  }
  function resize() {
    const w = map.clientWidth || 300;
    size = [w, clamp(w * 0.7, 240, 460)];
    map.style.height = `${size[1]}px`;
    keys.forEach((key, l) => {
      const context = canvas2d(key.firstChild, 14, 14);
      key.firstChild.style.cssText = "width:14px;height:14px";
      context.beginPath();
      mark(context, l, 7, 7, 4.5);
      context.fillStyle = hues(root)[l % 7];
      context.fill();
    });
    draw();
  }
  const undo = [follow(model, ["selected"], tell), follow(model, ["mix"], () => { blend && blend.move(model.get("mix")); draw(); tell(); })];
  resize();
  tell();
  return () => { playing = 0; undo.forEach((stop) => stop()); root.stop(); };
}
export default { render };
