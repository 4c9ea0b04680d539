function render({ model, el }) {
  const C = model.get("cosines"), B = C.length, labels = model.get("labels"), plane = model.get("plane");
  const [ox, oy] = model.get("origin"), share = model.get("share");
  const lowest = Math.min(0, ...C.flat());
  let shows = "share", size = [300, 300];

  const root = frame(el, model, "Similarity matrix", () => { shade(); draw(); });
  const heat = slider("temperature τ", { min: -2, max: 0, step: 0.01, value: Math.log10(model.get("temperature")) },
    (value) => (10 ** value).toFixed(value < -1 ? 3 : 2), (value) => set(model, { temperature: 10 ** value }));
  const choices = { cosine: "cosine", score: "cosine / τ", share: "share (softmax of the row)" };
  const kind = h("select", { onchange: () => { shows = kind.value; tell(); } },
    ...Object.entries(choices).map(([value, text]) => h("option", { value, selected: value === shows && "" }, text)));
  const all = h("button", { type: "button", onclick: () => set(model, { row: -1 }) }, "all rows");
  const status = h("div", { class: "nbx-status", role: "status" });
  const formula = h("p", { class: "nbx-note" });
  const heads = [], cells = [];
  const body = h("tbody", {}, ...C.map((line, i) => {
    const name = h("button", { type: "button", onclick: () => set(model, { row: model.get("row") === i ? -1 : i }),
      onpointerenter: () => { pointed = i; tell(); }, onpointerleave: () => { pointed = -1; tell(); }, title: labels[i] }, labels[i]);
    heads.push(name);
    cells.push(line.map((_, j) => h("td", { class: i === j ? "own" : null })));
    return h("tr", {}, h("th", { scope: "row" }, name), ...cells[i]);
  }));
  let pointed = -1;
  const table = h("table", { class: "nbx-matrix" }, h("caption", {}, "a row: an anchor; a column: a positive; framed: the right answer"),
    h("thead", {}, h("tr", {}, h("td", {}), ...labels.slice(B).map((label) => h("th", { scope: "col", title: label }, label)))), body);
  const picture = h("canvas", { class: "nbx-canvas", role: "img", style: "max-width:26rem" });
  const hint = h("p", { class: "nbx-note" }, "● anchor, ▲ its positive, joined by a line. Arrows: where a step against the gradient moves each vector; solid: an anchor, dashed: a positive. The longest is always drawn equally long. ",
    share < 0.9995 ? `The plane shows ${percent(share)} of the vectors' variance.` : "");
  root.append(h("div", { class: "nbx-row" }, heat, h("label", {}, "numbers", kind), all),
    h("div", { class: "nbx-columns" }, h("div", { class: "nbx-wide", tabindex: 0, role: "group", "aria-label": "the matrix" }, table), h("div", {}, picture, hint)), status, formula);

  const chosen = () => (pointed >= 0 ? pointed : model.get("row"));
  function shares() {
    const t = model.get("temperature");
    return C.map((line) => {
      const most = Math.max(...line), powers = line.map((c) => Math.exp((c - most) / t)), sum = powers.reduce((a, b) => a + b);
      return powers.map((p) => p / sum);
    });
  }
  // -gradient of the mean loss (of one row's, if one is chosen) at each vector, in the plane
  function arrows(P) {
    const t = model.get("temperature"), one = chosen(), result = plane.map(() => [0, 0]);
    C.forEach((line, i) => {
      if (one >= 0 && one !== i) return;
      line.forEach((c, j) => {
        const pull = -(P[i][j] - (i === j)) / (t * (one >= 0 ? 1 : B));
        const a = plane[i], p = plane[B + j];
        for (const d of [0, 1]) {
          result[i][d] += pull * (p[d] - c * a[d]);
          result[B + j][d] += pull * (a[d] - c * p[d]);
        }
      });
    });
    return result;
  }
  function shade() {
    const P = shares(), t = model.get("temperature"), one = chosen(), rgb = hues(root)[0].match(/\w\w/g).map((v) => parseInt(v, 16));
    cells.forEach((line, i) => line.forEach((cell, j) => {
      cell.textContent = shows === "share" ? P[i][j].toFixed(2) : shows === "cosine" ? C[i][j].toFixed(2) : (C[i][j] / t).toFixed(1);
      const strength = shows === "share" ? P[i][j] : (C[i][j] - lowest) / (1 - lowest);
      cell.style.background = `rgba(${rgb}, ${((root.dataset.theme === "dark" ? 0.38 : 0.55) * clamp(strength, 0, 1)).toFixed(3)})`;
      cell.classList.toggle("dim", one >= 0 && one !== i);
    }));
    heads.forEach((head, i) => head.setAttribute("aria-pressed", model.get("row") === i));
  }
  function draw() {
    const w = picture.clientWidth || 300, high = Math.min(w, 380);
    size = [w, high];
    picture.style.height = `${high}px`;
    const context = canvas2d(picture, w, high), P = shares(), A = arrows(P), colours = hues(root), one = chosen();
    const points = plane.map(([a, b]) => [a - ox, b - oy]);
    const reach = 1.35 * Math.max(...points.map(([a, b]) => Math.max(Math.abs(a), Math.abs(b))), 1e-9), unit = Math.min(w, high) / 2 / reach;
    const at = ([a, b]) => [w / 2 + a * unit, high / 2 - b * unit];
    const longest = Math.max(...A.map(([a, b]) => Math.hypot(a, b)));
    if (share === 1 && !ox && !oy) {
      context.strokeStyle = "#8886";
      context.beginPath();
      context.arc(w / 2, high / 2, unit, 0, 7);
      context.stroke();
    }
    points.forEach((point, n) => {
      const i = n % B, [px, py] = at(point), far = one >= 0 && n < B && i !== one;
      const colour = colours[i % 7];
      context.globalAlpha = far ? 0.3 : 1;
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = 1;
      if (n < B) {
        context.beginPath();
        context.setLineDash([2, 3]);
        context.moveTo(px, py);
        context.lineTo(...at(points[B + i]));
        context.stroke();
        context.setLineDash([]);
        context.beginPath();
        context.arc(px, py, 5, 0, 7);
      } else {
        context.beginPath();
        context.moveTo(px, py - 6);
        context.lineTo(px + 6, py + 5);
        context.lineTo(px - 6, py + 5);
        context.closePath();
      }
      context.fill();
      const [ax, ay] = A[n].map((v) => (v / (longest || 1)) * 0.17 * Math.min(w, high)), length = Math.hypot(ax, ay);
      if (longest > 1e-9 && length > 2) arrow(context, px, py, px + ax, py - ay, n >= B, ink(root));
      context.globalAlpha = 1;
      context.fillStyle = ink(root);
      context.font = "12px system-ui, sans-serif";
      const name = labels[n].length > 16 ? labels[n].slice(0, 15) + "…" : labels[n];
      const width = context.measureText(name).width;
      if (n < B || labels[n] !== labels[i]) context.fillText(name, clamp(px + 8, 2, w - width - 2), clamp(py - 7, 12, high - 3));
    });
    const strength = longest > 1e-9 ? `The longest arrow is a gradient of length ${longest.toPrecision(2)}.` : "There is no gradient.";
    picture.setAttribute("aria-label", `The vectors in a plane with an arrow each. ${strength}`);
    return strength;
  }
  function arrow(context, x0, y0, x1, y1, dashed, colour) {
    const turn = Math.atan2(y1 - y0, x1 - x0);
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = 1.8;
    context.setLineDash(dashed ? [4, 3] : []);
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    context.moveTo(x1 + 3 * Math.cos(turn), y1 + 3 * Math.sin(turn));
    for (const side of [2.6, -2.6]) context.lineTo(x1 + 7 * Math.cos(turn + side), y1 + 7 * Math.sin(turn + side));
    context.closePath();
    context.fill();
  }
  function tell() {
    const t = model.get("temperature"), P = shares(), one = chosen(), losses = P.map((line, i) => -Math.log(line[i])); // τ >= 0.01: no share is under e^-200
    heat.move(Math.log10(t));
    shade();
    const strength = draw(), tau = t.toFixed(t < 0.1 ? 3 : 2);
    if (one < 0) {
      const right = C.filter((line, i) => line[i] === Math.max(...line)).length;
      status.textContent = `At τ = ${tau} the loss is ${(losses.reduce((a, b) => a + b) / B).toFixed(3)} nats; guessing costs ln ${B} = ${Math.log(B).toFixed(3)}. ${right} of ${B} anchors have their own positive nearest. ${strength}`;
      formula.textContent = "loss = mean over i of −ln( exp(cosᵢᵢ / τ) / Σⱼ exp(cosᵢⱼ / τ) ). Choose a row to see its own.";
    } else {
      const wrong = P[one].map((p, j) => [p, j]).filter(([, j]) => j !== one).sort((a, b) => b[0] - a[0])[0];
      const push = wrong[0] / Math.max(1e-300, P[one].reduce((sum, p, j) => sum + (j === one ? 0 : p), 0));
      status.textContent = `“${labels[one]}”: its own positive has ${percent(P[one][one])} of the softmax. Of the push on the wrong ones “${labels[B + wrong[1]]}” gets ${percent(push)}. ${strength}`;
      const terms = C[one].map((c) => `e^(${c.toFixed(2)}/${tau})`);
      formula.textContent = `loss of this row = −ln( ${terms[one]} / (${terms.slice(0, 6).join(" + ")}${B > 6 ? " + …" : ""}) ) = ${losses[one].toFixed(3)} nats`;
    }
  }
  const undo = [follow(model, ["temperature", "row"], tell)];
  tell();
  return () => { undo.forEach((stop) => stop()); root.stop(); };
}
export default { render };
