function render({ model, el }) {
  const words = model.get("words"), names = model.get("names"), scores = model.get("scores");
  const most = scores.map((row) => Math.max(...row.map(Math.abs)));
  const number = (value) => (value === 0 ? "0" : Math.abs(value) < 0.01 || Math.abs(value) >= 1000 ? value.toExponential(0) : value.toPrecision(2));
  // words with as large a score share a rank, as a jury does: 1, 2, 2, 4
  const rank = (row, j) => 1 + row.filter((value) => Math.abs(value) > Math.abs(row[j])).length;

  const root = frame(el, model, "Explanations", () => shade());
  const status = h("div", { class: "nbx-status", role: "status" });
  let pointed = -1;
  const buttons = words.map((text, j) => h("button", { type: "button", title: text,
    onclick: () => set(model, { word: model.get("word") === j ? -1 : j }),
    onpointerenter: () => { pointed = j; tell(); }, onpointerleave: () => { pointed = -1; tell(); } }, visible(text)));
  const top = h("tr", {}, h("td", {}), ...buttons.map((button) => h("th", { scope: "col" }, button)));
  const cells = scores.map((row) => row.map((value) => h("td", {}, number(value))));
  const table = h("table", { class: "nbx-matrix" }, h("caption", {}, "a row: a method; a column: a word; the darker, the larger in its row"),
    h("thead", {}, top), h("tbody", {}, ...names.map((name, i) => h("tr", {}, h("th", { scope: "row", title: name }, name), ...cells[i]))));
  const tabstop = roving(top, buttons, words.length, (j) => { pointed = -1; set(model, { word: j }); tell(); });
  root.append(h("p", { class: "nbx-note" }, "Point at a word, or choose one and walk with the arrow keys: below stands where each method ranks it."),
    h("div", { class: "nbx-wide", tabindex: 0, role: "group", "aria-label": "the table" }, table), status);

  const chosen = () => (pointed >= 0 ? pointed : model.get("word"));
  function shade() {
    const rgb = hues(root)[0].match(/\w\w/g).map((v) => parseInt(v, 16)), one = chosen();
    cells.forEach((row, i) => row.forEach((cell, j) => {
      const strength = most[i] ? Math.abs(scores[i][j]) / most[i] : 0;
      cell.style.background = `rgba(${rgb}, ${((root.dataset.theme === "dark" ? 0.38 : 0.55) * strength).toFixed(3)})`;
      cell.classList.toggle("own", j === one);
    }));
  }
  function tell() {
    const one = chosen(), fixed = model.get("word");
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", j === fixed));
    tabstop(Math.max(0, fixed));
    shade();
    if (one < 0) {
      const firsts = names.map((name, i) => `${name}: ${most[i] ? words.filter((_, j) => Math.abs(scores[i][j]) === most[i]).join(" = ") : "none"}`);
      status.textContent = `The largest of each row. ${firsts.join("; ")}.`;
    } else status.textContent = `“${words[one]}” is, of ${words.length} words, ${names.map((name, i) => `number ${rank(scores[i], one)} by ${name} (${number(scores[i][one])})`).join("; ")}.`;
  }
  const undo = follow(model, ["word"], tell);
  tell();
  return () => { undo(); root.stop(); };
}
export default { render };
