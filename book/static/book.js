// What is wider than its place scrolls inside itself (book.css). The keyboard must get there too.
function reach() {
  for (const part of document.querySelectorAll("main :is(pre, table, div, mjx-container)")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(part).overflowX) && part.scrollWidth > part.clientWidth + 1;
    if (scrolls && !part.hasAttribute("tabindex")) {
      part.tabIndex = 0;
      part.dataset.reached = "";
    } else if (!scrolls && "reached" in part.dataset) {
      part.removeAttribute("tabindex");
      delete part.dataset.reached;
    }
  }
}

addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  reach();
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true); // a solution was opened
});
