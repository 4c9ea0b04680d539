function render({ model, el }) {
  const R = model.get("names").length, S = model.get("steps"), K = model.get("choices"), words = model.get("words");
  const texts = model.get("tokens"), T = texts[0].length;
  const written = integers(model, "written"), chances = integers(model, "chances");
  const guesses = integers(model, "guesses"), sureness = integers(model, "sureness");
  const run = () => clamp(model.get("run"), 0, R - 1), step = () => clamp(model.get("step"), 0, S), token = () => clamp(model.get("token"), 0, T - 1);
  const when = (t) => written[run() * T + t], chance = (t) => chances[run() * T + t] / 65535;
  const table = (s, t) => Array.from({ length: K }, (_, k) => {
    const i = ((run() * S + s) * T + t) * K + k;
    return [words[guesses[i]], sureness[i] / 65535];
  });

  const root = frame(el, model, "Writing step by step", () => {});
  const pick = h("select", { onchange: () => set(model, { run: +pick.value }) }, ...model.get("names").map((name, i) => h("option", { value: i }, name)));
  const along = slider("step", { min: 0, max: S, step: 1, value: step() }, (value) => `${value} of ${S}`, (value) => set(model, { step: value }));
  const back = h("button", { type: "button", onclick: () => set(model, { step: step() - 1 }) }, "one step back");
  const next = h("button", { type: "button", onclick: () => set(model, { step: step() + 1 }) }, "one step on");
  const line = h("div", { class: "nbx-words", role: "group", "aria-label": "the text" });
  const notes = texts[0].map(() => h("small", {}));
  const chips = texts[0].map((_, t) => h("button", { type: "button", onclick: () => set(model, { token: t }) }, "", notes[t]));
  const tab = roving(line, chips, 1, (t) => set(model, { token: t }));
  line.append(...chips);
  const status = h("div", { class: "nbx-status", role: "status" }), choices = h("table");
  root.append(h("div", { class: "nbx-row" }, h("label", {}, "order", pick), back, next, along),
    h("p", { class: "nbx-note" }, "Walk through the steps. Click a word or a gap, or use the arrow keys: the table says what the model would put there, or what it chose from."),
    line, status, h("div", { class: "nbx-wide", tabindex: 0, role: "group", "aria-label": "the guesses" }, choices));

  const quoted = (word) => `“${word.trim() || "␣"}”`;
  function tell() {
    const s = step(), t = token(), text = texts[run()];
    pick.value = run();
    along.move(s);
    back.disabled = s === 0;
    next.disabled = s === S;
    tab(t);
    chips.forEach((chip, i) => {
      const there = when(i) <= s, now = there && when(i) === s && s > 0;
      chip.firstChild.nodeValue = there ? visible(text[i]) : "[MASK]";
      chip.className = now ? "random" : there ? "" : "masked";
      chip.setAttribute("aria-pressed", i === t);
      notes[i].textContent = !when(i) ? "" : there ? percent(chance(i)) : percent(table(s, i)[0][1]);
    });
    const fresh = text.map((word, i) => [word, i]).filter(([, i]) => s && when(i) === s).map(([word, i]) => `${quoted(word)} at position ${i + 1} (${percent(chance(i))})`);
    const left = text.filter((_, i) => when(i) > s).length;
    status.textContent = (s ? `Step ${s} of ${S} wrote ${fresh.join(", ")}. ` : "Nothing is written yet. ")
      + (left ? `${left} of ${T} positions are gaps; below a gap stands the probability of its likeliest word.` : "The text is whole; below a word stands the probability that it had when it was drawn.");
    const w = when(t);
    if (!w) {
      choices.replaceChildren(h("caption", {}, `${quoted(text[t])} at position ${t + 1} stood in the text.`));
      return;
    }
    const rows = table(w <= s ? w - 1 : s, t), bar = (value) => h("td", {}, h("span", { class: "nbx-bar", style: `width:${(6 * value).toFixed(2)}em`, "aria-hidden": "true" }), percent(value));
    if (w <= s && !rows.some(([word]) => word === text[t])) rows.push([text[t], chance(t)]);
    choices.replaceChildren(h("caption", {}, w <= s ? `Position ${t + 1}, written at step ${w}: what it was drawn from` : `Position ${t + 1}, still a gap: what would fit now`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "word"), h("th", { scope: "col" }, "probability"))),
      h("tbody", {}, ...rows.map(([word, p]) => h("tr", {}, h("th", { scope: "row", style: "white-space:pre" }, w <= s && word === text[t] ? `${word} ✓` : word), bar(p)))));
  }
  const undo = follow(model, ["run", "step", "token"], tell);
  tell();
  return () => { undo(); root.stop(); };
}
export default { render };
