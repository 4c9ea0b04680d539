function render({ model, el }) {
  const words = model.get("words"), K = model.get("choices"), randomWords = model.get("random_words");
  const guesses = integers(model, "guesses"), p = integers(model, "model"), q = integers(model, "perfect");
  let start = 0;
  const prepared = model.get("sentences").map((tokens) => {
    const first = start;
    start += tokens.length;
    const table = (numbers) => tokens.map((_, t) => Array.from(numbers.subarray((first + t) * K, (first + t + 1) * K), (v) => v / 65535));
    return { tokens, words: tokens.map((_, t) => Array.from(guesses.subarray((first + t) * K, (first + t + 1) * K), (n) => words[n])),
      model: table(p), perfect: q.length ? table(q) : null };
  });
  let own = null; // a typed sentence's answer
  let corrupted = null, draws = 0, count = { all: 0, masked: 0, random: 0, kept: 0 };
  const sentence = () => own || prepared[model.get("sentence")];
  const token = () => clamp(model.get("token"), 0, sentence().tokens.length - 1);

  const root = frame(el, model, "Masking playground", () => {});
  const pick = h("select", { onchange: () => { const sentence = +pick.value; begin(null); set(model, { sentence }); } });
  prepared.forEach(({ tokens }, i) => pick.append(h("option", { value: i }, tokens.join(q.length ? " " : ""))));
  const typed = h("input", { type: "text", "aria-label": "your own sentence", placeholder: "your own sentence", disabled: "", style: "flex:1 1 12rem" });
  const ask = h("button", { type: "submit", disabled: "" }, "use it");
  const note = h("p", { class: "nbx-note", role: "status" }, `Without a running kernel: choose one of the ${prepared.length} prepared sentences. Run the cell to type your own.`);
  const form = h("form", { class: "nbx-row", onsubmit: (event) => {
    event.preventDefault();
    note.textContent = "Asking the kernel …";
    model.send({ ask: "guess", text: typed.value });
  } }, typed, ask);
  // keys pressed here are not the notebook's
  form.addEventListener("keydown", (event) => event.stopPropagation());
  let line = h("div");
  const table = h("table"), status = h("div", { class: "nbx-status", role: "status" });
  let rate = 0.15;
  const often = slider("selected", { min: 0.05, max: 1, step: 0.05, value: rate }, percent, (value) => { rate = value; restart(); });
  const tally = h("p", { class: "nbx-note", role: "status" });
  root.append(h("div", { class: "nbx-row" }, h("label", {}, "sentence", pick)), form, note,
    h("p", { class: "nbx-note" }, "Click a word, or walk with the arrow keys: it is masked, and the table says what the model puts there."), line, status,
    h("div", { class: "nbx-wide", tabindex: 0, role: "group", "aria-label": "the guesses" }, table),
    h("div", { class: "nbx-row" }, h("button", { type: "button", onclick: () => corrupt(1) }, "corrupt: 80/10/10"),
      h("button", { type: "button", onclick: () => corrupt(100) }, "100 times"), often), tally);

  const random = () => { // mulberry32: the same draws for everybody
    let z = (draws = (draws + 0x6d2b79f5) | 0);
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
  function corrupt(times) {
    for (let n = 0; n < times; n++) corrupted = sentence().tokens.map((text) => {
      count.all++;
      if (random() >= rate) return null;
      const draw = random();
      const kind = draw < 0.8 ? "masked" : draw < 0.9 ? "random" : "kept";
      count[kind]++;
      return { kind, text: kind === "masked" ? "[MASK]" : kind === "random" ? randomWords[Math.floor(random() * randomWords.length)] : text };
    });
    rebuild();
  }
  function restart() { corrupted = null; count = { all: 0, masked: 0, random: 0, kept: 0 }; rebuild(); }

  function begin(typedOne) { // a typed sentence, or a prepared one again
    corrupted = null;
    if (model.get("token") !== 0) set(model, { token: 0 }); // while the old words are there
    own = typedOne;
    rebuild();
  }
  let chips = [], tab = null;
  function rebuild() {
    const held = root.contains(document.activeElement) && chips.includes(document.activeElement);
    pick.value = model.get("sentence");
    const fresh = h("div", { class: "nbx-words", role: "group", "aria-label": "the sentence" });
    chips = sentence().tokens.map((text, t) => {
      const done = corrupted && corrupted[t];
      return h("button", { type: "button", class: done ? done.kind : null, onclick: () => mask(t) }, visible(done ? done.text : text),
        done ? h("small", {}, done.kind === "random" ? `was ${text.trim()}` : done.kind) : null);
    });
    tab = roving(fresh, chips, 1, mask);
    fresh.append(...chips);
    line.replaceWith(fresh);
    line = fresh;
    tell();
    if (held) chips[token()].focus();
  }
  function mask(t) {
    const again = corrupted !== null;
    corrupted = null;
    if (model.get("token") !== t) set(model, { token: t });
    if (again) rebuild();
    else tell();
  }
  function tell() {
    const one = sentence(), t = token(), both = one.perfect;
    tab(t);
    if (!corrupted) chips.forEach((chip, i) => {
      chip.firstChild.nodeValue = i === t ? "[MASK]" : visible(one.tokens[i]);
      chip.className = i === t ? "masked" : "";
      chip.setAttribute("aria-pressed", i === t);
    });
    const selected = count.masked + count.random + count.kept;
    tally.textContent = !count.all ? "Nothing has been drawn yet." : `So far ${selected} of ${count.all} tokens were selected (${percent(selected / count.all)}); of these `
      + `${count.masked} masked${share(count.masked, selected)}, ${count.random} replaced by a random word${share(count.random, selected)}, ${count.kept} kept${share(count.kept, selected)}.`;
    if (corrupted) {
      const changed = corrupted.filter(Boolean).length;
      status.textContent = `This draw selected ${changed} of ${corrupted.length} tokens; the loss is computed at these alone, and the answer to each is the original. Click a word to go back to masking one.`;
      table.replaceChildren();
      return;
    }
    const word = one.tokens[t], at = one.words[t].indexOf(word);
    status.textContent = `“${word.trim()}” is hidden. The model: ${at < 0 ? "it is not among the words below" : percent(one.model[t][at])}${both && at >= 0 ? `; the perfect predictor: ${percent(both[t][at])}` : ""}.`;
    const bar = (value, low) => h("td", {}, h("span", { class: low ? "nbx-bar lo" : "nbx-bar", style: `width:${(6 * value).toFixed(2)}em`, "aria-hidden": "true" }), percent(value));
    table.replaceChildren(h("caption", {}, `What fits at place ${t + 1}?`), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "word"), h("th", { scope: "col" }, "the model"), both ? h("th", { scope: "col" }, "perfect") : null)),
      h("tbody", {}, ...one.words[t].map((guess, n) => h("tr", {}, h("th", { scope: "row", style: "white-space:pre" }, guess === word ? `${guess} ✓` : guess), bar(one.model[t][n], false), both ? bar(both[t][n], true) : null))));
  }
  const share = (part, whole) => (whole ? ` (${percent(part / whole)})` : "");

  const heard = (message) => {
    if (message.answer === "hello") {
      typed.disabled = ask.disabled = false;
      note.textContent = "The kernel is running: type a sentence of your own, or choose a prepared one.";
    } else if (message.answer === "error") note.textContent = message.error;
    else if (message.answer === "guess") {
      note.textContent = "Your own sentence is shown.";
      begin(message);
    }
  };
  model.on("msg:custom", heard);
  const undo = [follow(model, ["token"], () => { if (!corrupted) tell(); }), follow(model, ["sentence"], () => { own = null; rebuild(); })];
  rebuild();
  try { model.send({ ask: "hello" }); } catch (error) { console.debug("no kernel", error); }
  return () => { model.off("msg:custom", heard); undo.forEach((stop) => stop()); root.stop(); };
}
export default { render };
