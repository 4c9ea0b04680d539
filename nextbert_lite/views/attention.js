function render({ model, el }) {
  const sentences = model.get("sentences"), models = model.get("models"), [L, H] = model.get("shape");
  const data = integers(model, "data");
  const starts = [];
  let total = 0;
  for (const _ of models) starts.push(sentences.map(({ length: T }) => { const start = total; total += L * H * T * T; return start; }));
  const tokens = () => sentences[model.get("sentence")];
  const at = (m, l, head, q, k) => {
    const T = tokens().length;
    return data[starts[m][model.get("sentence")] + ((l * H + head) * T + q) * T + k] / 65535;
  };
  const weight = (m, q, k) => at(m, model.get("layer"), model.get("head"), q, k);
  let pointed = null; // the token under the pointer, else the chosen one counts
  const focus = () => clamp(pointed ?? model.get("token"), 0, tokens().length - 1);

  const root = frame(el, model, "Attention explorer", () => { paintMaps(); paintArcs(); });
  const pick = h("select", { onchange: () => { pointed = null; set(model, { sentence: +pick.value, token: 0 }); } });
  sentences.forEach((one, i) => pick.append(h("option", { value: i }, one.join(" "))));
  const threshold = slider("hide weights under", { min: 0, max: 0.5, step: 0.01, value: model.get("threshold") },
    (value) => value.toFixed(2), (value) => set(model, { threshold: value }));
  const controls = h("div", { class: "nbx-row" }, threshold);
  if (sentences.length > 1) controls.prepend(h("label", {}, "sentence", pick));
  const columns = h("div", { class: "nbx-columns" });
  const status = h("div", { class: "nbx-status", role: "status" });
  const hint = h("p", { class: "nbx-note" }, `${L * H > 1 ? "Choose a head (a row of small maps is a layer), then point" : "Point"} at a token or walk with the arrow keys. Above, `,
    h("span", { class: "hi" }, "where it looks"), "; below, dashed, ", h("span", { class: "lo" }, "who looks at it"),
    ". In the maps a row looks from, a column is looked at; darker is more.");
  root.append(controls, hint, columns, status);

  const parts = models.map((name, m) => {
    const heads = h("div", { class: "nbx-heads", role: "radiogroup", "aria-label": `head${name && " of " + name}`,
      style: `grid-template-columns: repeat(${H}, minmax(12px, ${H > 6 ? 26 : 44}px))` });
    const buttons = Array.from({ length: L * H }, (_, i) => h("button", { type: "button", role: "radio",
      "aria-label": `layer ${Math.floor(i / H) + 1}, head ${(i % H) + 1}`, title: `layer ${Math.floor(i / H) + 1}, head ${(i % H) + 1}`,
      onclick: () => choose(i) }, h("canvas")));
    heads.append(...buttons);
    const large = h("canvas", { role: "img" });
    const row = h("i"), column = h("i");
    const map = h("div", { class: "nbx-map" }, large, row, column);
    map.addEventListener("pointermove", (event) => {
      const box = map.getBoundingClientRect(), T = tokens().length;
      pointed = clamp(Math.floor(((event.clientY - box.top) / box.height) * T), 0, T - 1);
      show(clamp(Math.floor(((event.clientX - box.left) / box.width) * T), 0, T - 1));
    });
    map.addEventListener("pointerleave", () => { pointed = null; show(); });
    const arcs = s("svg", { "aria-hidden": "true" });
    const line = h("div", { class: "nbx-tokens", role: "group", "aria-label": `tokens${name && " of " + name}` });
    const caption = h("p", { class: "nbx-note" });
    columns.append(h("div", {}, name ? h("p", { class: "nbx-name" }, name) : null,
      h("div", { class: "nbx-row", style: "align-items:start" }, heads, h("div", { style: "flex:1 1 9rem; max-width:16rem" }, map, caption)), line));
    return { name, heads, buttons, large, row, column, line, arcs, caption, chips: [], tab: null, m,
      tabHead: roving(heads, buttons, H, (i) => choose(i)) };
  });
  if (models.length === 1) columns.firstChild.style.flexBasis = "100%";
  const choose = (i) => set(model, { layer: Math.floor(i / H), head: i % H });

  function build() { // a new sentence
    pick.value = model.get("sentence");
    for (const part of parts) {
      part.chips = tokens().map((token, i) => h("button", { type: "button",
        onpointerenter: () => { pointed = i; show(); }, onpointerleave: () => { pointed = null; show(); },
        onclick: () => set(model, { token: i }), onfocus: () => { if (model.get("token") !== i) set(model, { token: i }); } },
        visible(token), h("small", { class: "at", "aria-hidden": "true" }), h("small", { class: "by", "aria-hidden": "true" })));
      const fresh = h("div", { class: "nbx-tokens", role: "group", "aria-label": part.line.getAttribute("aria-label") });
      part.tab = roving(fresh, part.chips, 1, (i) => { pointed = null; set(model, { token: i }); show(); });
      fresh.append(part.arcs, ...part.chips);
      part.line.replaceWith(fresh);
      part.line = fresh;
    }
    paintMaps();
    show();
  }

  function paint(canvas, m, l, head) { // one pixel a weight
    const T = tokens().length, rgb = hues(root)[0].match(/\w\w/g).map((x) => parseInt(x, 16));
    canvas.width = canvas.height = T;
    const image = new ImageData(T, T);
    for (let i = 0, q = 0; q < T; q++) for (let k = 0; k < T; k++, i += 4) {
      image.data.set(rgb, i);
      image.data[i + 3] = 255 * Math.sqrt(at(m, l, head, q, k)); // so that small weights are seen too
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  let painted = "";
  function paintMaps() {
    const now = `${model.get("sentence")} ${root.dataset.theme}`;
    if (now !== painted) for (const part of parts) part.buttons.forEach((button, i) => paint(button.firstChild, part.m, Math.floor(i / H), i % H));
    painted = now;
    for (const part of parts) paint(part.large, part.m, model.get("layer"), model.get("head"));
  }

  function show(key) { // the focused token, in all models
    const q = focus(), l = model.get("layer"), head = model.get("head"), T = tokens().length, floor = model.get("threshold");
    threshold.move(floor);
    for (const part of parts) {
      part.buttons.forEach((button, i) => button.setAttribute("aria-checked", i === l * H + head));
      part.tabHead(l * H + head);
      part.tab(clamp(model.get("token"), 0, T - 1));
      part.caption.textContent = `layer ${l + 1}, head ${head + 1}`;
      part.large.setAttribute("aria-label", `map of layer ${l + 1}, head ${head + 1}${part.name && ", " + part.name}`);
      part.row.style.cssText = `left:0;width:100%;top:${(100 * q) / T}%;height:${100 / T}%`;
      part.column.style.cssText = `top:0;height:100%;left:${(100 * q) / T}%;width:${100 / T}%`;
      part.chips.forEach((chip, k) => {
        const to = weight(part.m, q, k), from = weight(part.m, k, q);
        chip.setAttribute("aria-pressed", k === q);
        chip.classList.toggle("key", k === key);
        const [above, below] = chip.querySelectorAll("small");
        above.textContent = to >= Math.max(floor, 0.005) ? to.toFixed(2) : "";
        below.textContent = from >= Math.max(floor, 0.005) ? from.toFixed(2) : "";
      });
    }
    status.replaceChildren(...parts.map((part) => describe(part, q, key)));
    paintArcs();
  }

  function describe(part, q, key) {
    const list = (value) => {
      const best = tokens().map((token, k) => [token, value(k)]).filter(([, w]) => w >= Math.max(model.get("threshold"), 0.005));
      best.sort((a, b) => b[1] - a[1]);
      return best.slice(0, 4).map(([token, w]) => `${token} ${w.toFixed(2)}`).join(", ") + (best.length > 4 ? ` and ${best.length - 4} more` : "") || "nothing above the threshold";
    };
    const exact = key == null ? "" : ` From “${tokens()[q]}” (${q + 1}) to “${tokens()[key]}” (${key + 1}): ${weight(part.m, q, key).toFixed(3)}.`;
    return h("div", {}, part.name ? h("strong", {}, `${part.name}: `) : null, h("span", { class: "hi" }, `“${tokens()[q]}” looks at`),
      ` ${list((k) => weight(part.m, q, k))}. `, h("span", { class: "lo" }, "Looked at by"), ` ${list((k) => weight(part.m, k, q))}.`, exact);
  }

  function paintArcs() {
    const q = focus(), floor = Math.max(model.get("threshold"), 0.005);
    for (const part of parts) {
      const box = (chip) => [chip.offsetLeft + chip.offsetWidth / 2, chip.offsetTop, chip.offsetHeight];
      const lines = [];
      if (part.chips[q] && part.chips[q].offsetWidth) {
        const boxes = part.chips.map(box), [x0, y0, high] = boxes[q];
        boxes.forEach(([x1, y1], k) => {
          for (const [w, down] of [[weight(part.m, q, k), 0], [weight(part.m, k, q), 1]]) {
            if (k === q || w < floor) continue;
            const a = y0 + down * high, b = y1 + down * high, lift = (down ? 1 : -1) * (14 + clamp(Math.abs(x1 - x0) / 9, 0, 26));
            lines.push(s("path", { d: `M${x0} ${a}C${x0} ${a + lift} ${x1} ${b + lift} ${x1} ${b}`, fill: "none",
              stroke: down ? "var(--lo)" : "var(--hi)", "stroke-dasharray": down ? "5 3" : null,
              "stroke-width": (0.8 + 4 * w).toFixed(2), opacity: (0.3 + 0.7 * w).toFixed(2) }));
          }
        });
      }
      part.arcs.replaceChildren(...lines);
    }
  }

  const undo = [follow(model, ["sentence"], build), follow(model, ["layer", "head"], () => { paintMaps(); show(); }),
    follow(model, ["token", "threshold"], () => show())];
  build();
  return () => { undo.forEach((stop) => stop()); root.stop(); };
}
export default { render };
