"""Each view drawn by a real browser: its own JavaScript on a plain page, with a stand-in for the widget's model.

No JupyterLab and no network: the page's few files are answered from here, and any other request fails the test.
"""

import base64
import json
import re

import pytest
import torch
from visits import HOW

from nextbert_lite import (
    AttentionExplorer,
    EmbeddingExplorer,
    ExplanationMatrix,
    MaskingPlayground,
    SimilarityMatrix,
    WritingSteps,
    load,
)
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld

sync_api = pytest.importorskip("playwright.sync_api", reason=HOW)
expect = sync_api.expect

SITE = "http://views.test"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A view</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/style.css">
<style>body { background: BACKGROUND; margin: 8px } </style></head>
<body><main><h1 style="font-size:1px;margin:0;color:inherit">view</h1><div id="view"></div></main>
<script type="module" src="/page.js"></script></body></html>"""
MODEL = """
import widget from "/widget.js";
const state = await (await fetch("/state.json")).json(), heard = {};
for (const [name, value] of Object.entries(state)) if (value && value.base64 !== undefined)
  state[name] = new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
const tell = (event, ...values) => (heard[event] || []).slice().forEach((listener) => listener(...values));
window.sent = []; window.saved = 0; window.heard = heard;
window.model = {
  get: (name) => state[name],
  set: (name, value) => { if (state[name] !== value) { state[name] = value; tell("change:" + name); } },
  save_changes: () => { window.saved++; },
  on: (event, listener) => { (heard[event] ||= []).push(listener); },
  off: (event, listener) => { heard[event] = (heard[event] || []).filter((one) => one !== listener); },
  send: (message) => { window.sent.push(message); },
};
window.receive = (message) => tell("msg:custom", message);
window.stop = widget.render({ model: window.model, el: document.getElementById("view") });
window.ready = true;
"""


@pytest.fixture
def draw(browser):
    """Return a function that draws a view on a page of its own; afterwards no page may have had a fault."""
    pages, faults = [], []

    def heard(text):
        if "willReadFrequently" not in text:  # a hint to these tests, which read the canvases back
            faults.append(text)

    def open_view(view, width=900, background="white", **options):
        state = {
            name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
            for name, value in view.get_state().items()
            if name not in ("layout", "_esm", "_css")
        }
        files = {
            "/": ("text/html", PAGE.replace("BACKGROUND", background)),
            "/page.js": ("text/javascript", MODEL),
            "/widget.js": ("text/javascript", str(view._esm)),
            "/style.css": ("text/css", str(view._css)),
            "/state.json": ("application/json", json.dumps(state)),
            "/favicon.ico": ("image/png", ""),
        }

        def answer(route):
            path = route.request.url.removeprefix(SITE)
            if path in files:
                kind, body = files[path]
                route.fulfill(status=200, content_type=f"{kind}; charset=utf-8", body=body)
            else:
                faults.append(f"asked for {route.request.url}")
                route.abort()

        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: message.type in ("error", "warning") and heard(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.route("**/*", answer)
        page.goto(f"{SITE}/")
        page.wait_for_function("window.ready")
        pages.append(page)
        return page

    yield open_view
    for page in pages:
        page.close()
    assert faults == []


def weights(*shape, seed=0):
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


TOKENS = ["[CLS]", *COURSE_SENTENCE.split(), "[SEP]"]
T = len(TOKENS)


def attention(**options):
    return AttentionExplorer(TOKENS, weights(2, 4, T, T), title="Whom does the verb look at?", **options)


def two_models():
    models = {"before training": weights(2, 4, T, T), "after training": weights(2, 4, T, T, seed=1)}
    return AttentionExplorer(TOKENS, models, token=6)


def embeddings(N=300):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (N,), generator=generator)
    noise = torch.randn(2, N, 8, generator=generator)
    vectors = {"before": noise[0], "after": noise[1] + 4 * torch.eye(8)[label]}
    points = {name: v[:, :2] + v[:, 2:4] for name, v in vectors.items()}
    names = [["python", "torch", "numpy", "matplotlib"][i] for i in label.tolist()]
    texts = [f"text {i} of {name}" for i, name in enumerate(names)]
    return EmbeddingExplorer(points, names, texts, vectors=vectors)


@pytest.fixture(scope="module")
def toy():
    model, tokenizer = load("toy-small")
    return model, tokenizer, ToyWorld()


def circle(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def similarity(**options):
    return SimilarityMatrix(circle(90.0, 200.0, 330.0), circle(50.0, 122.0, 300.0), ["red", "green", "blue"], **options)


def explanations(**options):
    scores = {"the truth": [0, 0.69, 0, 0], "gradient": [0.2, -0.4, 0.1, 0.4], "nothing": [0, 0, 0, 0]}
    return ExplanationMatrix(["the", "cook", "near", "ovens"], scores, title="Why this verb?", **options)


def get(page, name):
    return page.evaluate("(name) => window.model.get(name)", name)


def drawn(canvas):
    """How many pixels of a canvas are not empty, and a number that changes with what is drawn."""
    return canvas.evaluate(
        "(c) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0, h = 0;"
        " for (let i = 0; i < d.length; i += 4) if (d[i + 3]) { n++; h = (h * 31 + i + d[i] + d[i + 3]) % 1000003; }"
        " return [n, h]; }"
    )


def wait_for_another(page, canvas, before):
    """Wait until a canvas no longer shows what it showed."""
    handle = canvas.element_handle()
    page.wait_for_function(
        "([c, before]) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let h = 0;"
        " for (let i = 0; i < d.length; i += 4) if (d[i + 3]) h = (h * 31 + i + d[i] + d[i + 3]) % 1000003;"
        " return h !== before; }",
        arg=[handle, before[1]],
    )


# --- all views --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(toy):
    model, tokenizer, world = toy
    return {
        "attention": attention(),
        "two models": two_models(),
        "embeddings": embeddings(),
        "masking": MaskingPlayground(model, tokenizer, world),
        "similarity": similarity(),
        "explanations": explanations(),
        "writing": WritingSteps(model, tokenizer, " ".join(["[MASK]"] * 11), seeds=(0, 1), title="How it is written"),
    }


KINDS = ["attention", "two models", "embeddings", "masking", "similarity", "explanations", "writing"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_sticks_out_of_the_page(kind, width, views, draw):
    page = draw(views[kind], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".nbx").bounding_box()["height"] > 200


@pytest.mark.parametrize("kind", KINDS)
def test_light_and_dark_follow_what_lies_behind_also_when_it_changes(kind, views, draw):
    page = draw(views[kind], background="#14181e")
    expect(page.locator(".nbx[data-theme=dark]")).to_be_visible()
    page.evaluate("document.body.style.background = 'white'")
    expect(page.locator(".nbx[data-theme=light]")).to_be_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_that_is_closed_listens_no_more(kind, views, draw):
    page = draw(views[kind])
    page.evaluate("window.stop()")
    assert page.evaluate("Object.values(window.heard).flat().length") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_jupyterlab_leaves_the_keys_to_the_view(kind, views, draw):
    page = draw(views[kind])
    expect(page.locator(".nbx")).to_have_attribute("data-lm-suppress-shortcuts", "true")  # else arrows change the cell


def test_text_is_drawn_and_never_run(draw, toy):
    evil = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    model, tokenizer, world = toy
    playground = MaskingPlayground(model, tokenizer, world, [COURSE_SENTENCE], title=evil)
    playground.words = [evil] * len(playground.words)
    playground.sentences = [[evil] * len(playground.sentences[0])]
    writing = WritingSteps(model, tokenizer, "the [MASK]", orders=["left"], title=evil, step=1)
    writing.words, writing.tokens, writing.names = [evil] * len(writing.words), [[evil, evil]], [evil]
    for view in (
        writing,
        AttentionExplorer(
            [[evil, "b"], [evil, "d"]], {evil: [weights(2, 2)] * 2, "x": [weights(2, 2)] * 2}, title=evil
        ),
        EmbeddingExplorer({evil: torch.rand(3, 2), "x": torch.rand(3, 2)}, [evil] * 3, [evil] * 3, selected=0),
        SimilarityMatrix(circle(0.0, 90.0), circle(10.0, 80.0), [evil, evil], title=evil, row=0),
        ExplanationMatrix([evil, evil], {evil: [1.0, 2.0]}, title=evil, word=1),
        playground,
    ):
        page = draw(view)
        assert "<script>" in page.locator(".nbx").inner_text()
        assert page.locator(".nbx script, .nbx img").count() == 0 and page.title() == "A view"


@pytest.mark.parametrize("background", ["white", "#14181e"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_accessibility_fault(kind, background, views, draw, axe):
    page = draw(views[kind], background=background)
    expect(page.locator(f".nbx[data-theme={'light' if background == 'white' else 'dark'}]")).to_be_visible()
    page.evaluate(axe)
    found = page.evaluate("axe.run('.nbx')")["violations"]
    assert [(f["id"], f["impact"], f["nodes"][0]["html"][:200], f["nodes"][0]["failureSummary"]) for f in found] == []


# --- attention --------------------------------------------------------------------------------------------------------


def chip(page, i, part=0):
    return page.locator(".nbx-tokens").nth(part).locator("button").nth(i)


def expected_status(w, q):
    """The status line's first part: the four tokens that q looks at most, from 0.05 on."""
    best = sorted(((w[q, k].item(), k) for k in range(len(w)) if w[q, k] >= 0.05), key=lambda pair: -pair[0])[:4]
    return f"“{TOKENS[q]}” looks at " + ", ".join(f"{TOKENS[k]} {value:.2f}" for value, k in best)


def test_pointing_at_a_token_draws_where_it_looks_and_who_looks_at_it(draw):
    page, w = draw(attention()), weights(2, 4, T, T)[0, 0]
    chip(page, 6).hover()
    expect(page.locator(".nbx-status")).to_contain_text(expected_status(w, 6))
    others = [k for k in range(T) if k != 6]
    arcs = sum(int(w[6, k] >= 0.05) for k in others) + sum(int(w[k, 6] >= 0.05) for k in others)
    expect(page.locator(".nbx-tokens svg path")).to_have_count(arcs)
    expect(page.locator(".nbx-tokens svg path[stroke-dasharray]")).to_have_count(
        sum(int(w[k, 6] >= 0.05) for k in others)
    )
    for k in range(T):
        expect(chip(page, k).locator(".at")).to_have_text(f"{w[6, k]:.2f}" if w[6, k] >= 0.05 else "")
        expect(chip(page, k).locator(".by")).to_have_text(f"{w[k, 6]:.2f}" if w[k, 6] >= 0.05 else "")
    page.mouse.move(1, 1)  # away: the chosen token again
    expect(page.locator(".nbx-status")).to_contain_text(expected_status(w, 0))


def test_the_keyboard_walks_over_tokens_and_heads(draw):
    page, w = draw(attention()), weights(2, 4, T, T)
    page.keyboard.press("Tab")  # the threshold
    page.keyboard.press("Tab")  # the heads, one stop
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert (get(page, "layer"), get(page, "head")) == (1, 1)
    expect(page.get_by_role("radio", name="layer 2, head 2")).to_be_focused()
    expect(page.get_by_role("radio", checked=True)).to_have_count(1)
    page.keyboard.press("Tab")  # the tokens, one stop
    for key in ("ArrowRight", "ArrowRight", "End", "Home", "ArrowRight", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    expect(chip(page, 1)).to_be_focused()
    assert get(page, "token") == 1
    expect(page.locator(".nbx-status")).to_contain_text(expected_status(w[1, 1], 1))
    page.keyboard.press("Tab")
    expect(page.locator(".nbx :focus")).to_have_count(0)  # the view ends here


def test_a_click_chooses_a_head_and_paints_it_large(draw):
    page = draw(attention())
    large = page.locator(".nbx-map canvas")
    before = drawn(large)
    page.get_by_role("radio", name="layer 2, head 3").click()
    wait_for_another(page, large, before)
    assert (get(page, "layer"), get(page, "head")) == (1, 2)
    w = weights(2, 4, T, T)[1, 2]
    alpha = large.evaluate("(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")[3::4]
    assert len(alpha) == T * T
    assert max(abs(a - 255 * v**0.5) for a, v in zip(alpha, w.flatten().tolist(), strict=True)) < 1.5


def test_pointing_at_the_large_map_reads_off_one_weight(draw):
    page, w = draw(attention()), weights(2, 4, T, T)[0, 0]
    box = page.locator(".nbx-map").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / T, box["y"] + box["height"] * 5.5 / T)
    expect(page.locator(".nbx-status")).to_contain_text(f"From “{TOKENS[5]}” (6) to “{TOKENS[3]}” (4): {w[5, 3]:.3f}")
    assert [chip.inner_text() for chip in page.locator(".nbx-tokens button.key").all()] == [
        page.locator(".nbx-tokens button").nth(3).inner_text()
    ]


def test_the_arrow_keys_go_on_from_a_clicked_token_though_the_pointer_rests_on_it(draw):
    page = draw(attention())
    page.locator(".nbx-tokens button").nth(2).click()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".nbx-status")).to_contain_text(f"“{TOKENS[3]}” looks at")


def test_a_list_of_weights_that_is_cut_says_so(draw):
    page = draw(attention())
    expect(page.locator(".nbx-status")).to_contain_text("more")


def test_the_threshold_hides_weak_weights(draw):
    page = draw(attention(token=6))
    all_arcs = page.locator(".nbx-tokens svg path").count()
    threshold = page.get_by_role("slider", name="hide weights under")
    threshold.fill("0.4")
    assert get(page, "threshold") == 0.4
    w = weights(2, 4, T, T)[0, 0]
    others = [k for k in range(T) if k != 6]
    strong = sum(int(w[6, k] >= 0.4) + int(w[k, 6] >= 0.4) for k in others)
    assert strong < all_arcs
    expect(page.locator(".nbx-tokens svg path")).to_have_count(strong)
    expect(threshold).to_have_attribute("aria-valuetext", "0.40")


def test_two_models_stand_side_by_side_and_move_together(draw):
    page = draw(two_models(), width=1000)
    chip(page, 2, part=1).hover()
    expect(page.locator(".nbx-status > div")).to_have_count(2)
    for number, seed in enumerate((0, 1)):
        line = page.locator(".nbx-status > div").nth(number)
        expect(line).to_contain_text(["before", "after"][number] + " training:")
        expect(line).to_contain_text(expected_status(weights(2, 4, T, T, seed=seed)[0, 0], 2))
    page.get_by_role("radiogroup", name="head of after training").get_by_role("radio").nth(5).click()
    expect(page.get_by_role("radio", name="layer 2, head 2", checked=True)).to_have_count(2)


def test_several_sentences_can_be_chosen(draw):
    page = draw(AttentionExplorer([TOKENS, ["a", "b"]], [weights(2, 4, T, T), weights(2, 4, 2, 2)], token=5))
    page.get_by_role("combobox", name="sentence", exact=True).select_option("a b")
    expect(page.locator(".nbx-tokens button")).to_have_count(2)
    w = weights(2, 4, 2, 2)[0, 0]
    page.evaluate("window.model.set('token', 1)")
    expect(chip(page, 0).locator(".at")).to_have_text(f"{w[1, 0]:.2f}")
    assert page.locator(".nbx-map canvas").evaluate("(c) => c.width") == 2


def test_a_token_of_spaces_and_a_very_long_one_can_be_seen(draw):
    page = draw(AttentionExplorer([" ", "", "x" * 300], weights(3, 3)), width=360)
    assert page.locator(".nbx-tokens button").all_inner_texts()[0].startswith("␣")
    expect(page.get_by_role("button", name="␣")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_python_sets_is_drawn(draw):
    page, w = draw(attention()), weights(2, 4, T, T)
    page.evaluate("for (const [k, v] of [['layer', 1], ['head', 3], ['token', 8]]) window.model.set(k, v)")
    expect(page.locator(".nbx-status")).to_contain_text(expected_status(w[1, 3], 8))


def test_the_largest_view_has_all_its_heads_and_tokens(draw):
    page = draw(AttentionExplorer([f"w{i}" for i in range(128)], weights(12, 12, 128, 128)), width=360)
    expect(page.get_by_role("radio")).to_have_count(144)
    chip(page, 100).hover()
    expect(page.locator(".nbx-status")).to_contain_text("“w100” looks at")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# --- embeddings -------------------------------------------------------------------------------------------------------


def place_of(view):
    """Where each text lies on the first map, (N, 2), 0 to 1."""
    return torch.frombuffer(bytearray(view.points), dtype=torch.uint16).to(int).reshape(2, -1, 2)[0] / 65535


def pixel_of(view, canvas, i):
    """Where text i lies on the page."""
    box, (x, y) = canvas.bounding_box(), place_of(view)[i].tolist()
    unit = min(box["width"], box["height"]) - 26
    return box["x"] + box["width"] / 2 + (x - 0.5) * unit, box["y"] + box["height"] / 2 - (y - 0.5) * unit


def test_the_keyboard_walks_from_text_to_text_and_to_the_nearest_neighbour(draw):
    view = embeddings()
    page = draw(view)
    canvas = page.get_by_role("application")
    canvas.focus()
    page.keyboard.press("ArrowRight")  # the one in the middle
    first = get(page, "selected")
    expect(page.locator(".nbx-status")).to_contain_text(view.texts[first])
    points = place_of(view)
    for key, axis, sign in (("ArrowLeft", 0, -1), ("ArrowDown", 1, -1), ("ArrowUp", 1, 1), ("ArrowRight", 0, 1)):
        at = get(page, "selected")
        page.keyboard.press(key)
        step = points[get(page, "selected")] - points[at]
        assert sign * step[axis] > 0 and step[1 - axis].abs() <= step[axis].abs() + 1e-3  # more that way than aside
    second = get(page, "selected")
    near = torch.frombuffer(bytearray(view.neighbours), dtype=torch.uint16).to(int).reshape(2, 300, 5)[0]
    page.keyboard.press("Enter")
    assert get(page, "selected") == near[second, 0]
    expect(page.locator(".nbx-near li")).to_have_count(5)
    expect(page.locator(".nbx-near li").first).to_contain_text(view.texts[near[near[second, 0], 0]])
    page.keyboard.press("Escape")
    expect(page.locator(".nbx-status")).to_have_text("No text is chosen.")


def test_pointing_at_a_point_shows_its_text_and_its_neighbours(draw):
    view = embeddings()
    page = draw(view)
    canvas = page.get_by_role("application")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    chosen = get(page, "selected")
    page.keyboard.press("Escape")
    page.mouse.move(*pixel_of(view, canvas, chosen))
    expect(page.locator(".nbx-status")).to_contain_text(view.texts[chosen])
    assert get(page, "selected") == -1  # pointing does not choose
    page.mouse.down()
    page.mouse.up()
    assert get(page, "selected") == chosen
    page.locator(".nbx-near button").nth(2).click()
    near = torch.frombuffer(bytearray(view.neighbours), dtype=torch.uint16).to(int).reshape(2, 300, 5)[0]
    assert get(page, "selected") == near[chosen, 2]


def test_zoom_pan_and_show_all(draw):
    page = draw(embeddings())
    canvas = page.get_by_role("application")
    whole = drawn(canvas)
    page.get_by_role("button", name="zoom in").click()
    near = drawn(canvas)
    assert near != whole
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 80, middle[1] + 30)
    page.mouse.up()
    assert drawn(canvas) != near and get(page, "selected") == -1  # a drag chooses nothing
    page.get_by_role("button", name="show all").click()
    page.mouse.move(1, 1)
    assert drawn(canvas) == whole
    canvas.focus()
    page.keyboard.press("+")
    assert drawn(canvas) != whole
    page.keyboard.press("0")
    assert drawn(canvas) == whole


def test_the_legend_filters(draw):
    page = draw(embeddings())
    canvas = page.get_by_role("application")
    before = drawn(canvas)
    page.get_by_role("button", name="torch (").click()
    assert drawn(canvas)[0] < before[0]
    expect(page.get_by_role("button", name="torch (")).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="torch (").click()
    assert drawn(canvas) == before


def test_a_label_that_is_switched_off_cannot_be_pointed_at(draw):
    view = embeddings(8)
    page = draw(view)
    canvas = page.get_by_role("application")
    page.mouse.move(*pixel_of(view, canvas, 0))
    expect(page.locator(".nbx-status")).to_contain_text(view.texts[0])
    label = view.labels[view.label_of[0]]
    page.get_by_role("button", name=f"{label} (").click()
    page.mouse.move(*pixel_of(view, canvas, 0))
    expect(page.locator(".nbx-status")).not_to_contain_text(view.texts[0])


def test_the_slider_moves_from_before_to_after_and_the_neighbours_follow(draw):
    view = embeddings()
    view.selected = 7
    page = draw(view)
    canvas = page.get_by_role("application")
    before = drawn(canvas)
    near = torch.frombuffer(bytearray(view.neighbours), dtype=torch.uint16).to(int).reshape(2, 300, 5)
    expect(page.locator(".nbx-near li").first).to_contain_text(view.texts[near[0, 7, 0]])
    page.get_by_role("slider", name="before → after").fill("1")
    assert drawn(canvas) != before
    expect(page.locator(".nbx-near li").first).to_contain_text(view.texts[near[1, 7, 0]])
    expect(page.locator(".nbx-status")).to_contain_text("nearest neighbours after, of the same label:")


def test_the_animation_ends_at_the_second_embedding(draw):
    page = draw(embeddings())
    page.get_by_role("button", name="play from before to after").click()
    page.wait_for_function("window.model.get('mix') === 1 && window.saved > 0")
    expect(page.get_by_role("slider", name="before → after")).to_have_value("1")


def test_who_wants_no_motion_gets_none(draw):
    page = draw(embeddings(), reduced_motion="reduce")
    page.get_by_role("button", name="play from before to after").click()
    assert get(page, "mix") == 1


def test_ten_thousand_points_are_drawn(draw):
    page = draw(embeddings(10_000))
    assert drawn(page.get_by_role("application"))[0] > 5000


# --- masking ----------------------------------------------------------------------------------------------------------


def test_a_click_masks_a_word_and_shows_both_distributions(draw, views):
    view = views["masking"]
    page = draw(view)
    words = page.locator(".nbx-words button")
    expect(words.nth(5)).to_have_text("[MASK]")
    rows = page.locator("table tbody tr")
    expect(rows.filter(has_text="praises ✓")).to_have_count(1)
    expect(page.locator(".nbx-status")).to_contain_text("“praises” is hidden. The model: ")
    words.nth(1).click()
    expect(words.nth(1)).to_have_text("[MASK]")
    expect(words.nth(5)).to_have_text("praises")
    expect(page.locator(".nbx-status")).to_contain_text("“cook” is hidden.")
    guess = view.guess(COURSE_SENTENCE)
    for n, word in enumerate(guess.words[1]):
        row = rows.nth(n)
        expect(row.locator("th")).to_have_text(word + (" ✓" if word == "cook" else ""))
        shown = [float(text.removesuffix(" %")) / 100 for text in row.locator("td").all_inner_texts()]
        assert abs(shown[0] - guess.model[1][n]) < 0.0051 and abs(shown[1] - guess.perfect[1][n]) < 0.0051


def test_the_keyboard_moves_the_mask(draw, views):
    page = draw(views["masking"])
    words = page.locator(".nbx-words button")
    words.nth(5).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(words.nth(7)).to_have_text("[MASK]")
    expect(words.nth(7)).to_be_focused()
    assert get(page, "token") == 7


def test_the_corruption_follows_80_10_10(draw, views):
    page = draw(views["masking"])
    page.get_by_role("button", name="corrupt: 80/10/10").click()
    expect(page.locator(".nbx-status")).to_contain_text("of 11 tokens")
    for _ in range(10):
        page.get_by_role("button", name="100 times").click()
    tally = page.locator("p.nbx-note").last
    pattern = r"far (\d+) of (\d+) .*these (\d+) masked.*, (\d+) replaced.*, (\d+) kept"
    selected, of, masked, random, kept = map(int, re.search(pattern, tally.inner_text()).groups())
    assert of == 11 * 1001 and masked + random + kept == selected
    for part, whole, p in ((selected, of, 0.15), (masked, selected, 0.8), (random, selected, 0.1)):
        assert abs(part / whole - p) < 4 * (p * (1 - p) / whole) ** 0.5
    page.get_by_role("slider", name="selected").fill("1")
    page.get_by_role("button", name="corrupt: 80/10/10").click()
    expect(page.locator(".nbx-words small")).to_have_count(11)
    for word in page.locator(".nbx-words button").all():
        assert word.get_attribute("class") in ("masked", "random", "kept")
    page.locator(".nbx-words button").nth(2).focus()
    page.keyboard.press("ArrowRight")  # back to one mask, and the focus stays in the sentence
    expect(page.locator(".nbx-words button").nth(3)).to_be_focused()
    expect(page.locator(".nbx-words button").filter(has_text="[MASK]")).to_have_count(1)


def test_without_a_kernel_it_says_so_and_offers_twenty_sentences(draw, views):
    view = views["masking"]
    page = draw(view)
    expect(page.get_by_text("Without a running kernel: choose one of the 20 prepared sentences")).to_be_visible()
    expect(page.get_by_label("your own sentence")).to_be_disabled()
    expect(page.get_by_role("combobox", name="sentence", exact=True).locator("option")).to_have_count(20)
    page.get_by_role("combobox", name="sentence", exact=True).select_option(" ".join(view.sentences[7]))
    expect(page.locator(".nbx-words button")).to_have_count(len(view.sentences[7]))
    expect(page.locator(".nbx-words button").first).to_have_text("[MASK]")


def test_with_a_kernel_a_sentence_can_be_typed(draw, views):
    view = views["masking"]
    page = draw(view)
    assert page.evaluate("window.sent") == [{"ask": "hello"}]
    page.evaluate("window.receive({ answer: 'hello' })")
    box = page.get_by_label("your own sentence")
    expect(box).to_be_enabled()
    box.fill("the dog sleeps")
    page.keyboard.press("Enter")
    assert page.evaluate("window.sent.at(-1)") == {"ask": "guess", "text": "the dog sleeps"}
    page.evaluate("window.receive({ answer: 'error', error: \"'dog' is no word of the toy world.\" })")
    expect(page.get_by_text("'dog' is no word of the toy world.")).to_be_visible()
    guess = view.guess("the cooks praise the waiters in the kitchen")
    answer = {"answer": "guess", "tokens": guess.tokens, "words": guess.words}
    answer |= {"model": guess.model.tolist(), "perfect": guess.perfect.tolist()}
    page.evaluate("(answer) => window.receive(answer)", answer)
    expect(page.locator(".nbx-words button").nth(1)).to_have_text("cooks")
    expect(page.locator(".nbx-status")).to_contain_text("“the” is hidden")
    page.locator(".nbx-words button").last.click()
    page.get_by_role("combobox", name="sentence", exact=True).select_option(" ".join(view.sentences[2]))
    expect(page.locator(".nbx-words button")).to_have_count(len(view.sentences[2]))
    longer = {key: [*value, *value] if isinstance(value, list) else value for key, value in answer.items()}
    page.locator(".nbx-words button").last.click()
    page.evaluate("(answer) => window.receive(answer)", longer)
    expect(page.locator(".nbx-words button")).to_have_count(2 * len(guess.tokens))
    expect(page.locator(".nbx-words button").first).to_have_text("[MASK]")


# --- writing ----------------------------------------------------------------------------------------------------------


def steps_of(view):
    """When each position of each run is written, (R, 11)."""
    return torch.frombuffer(bytearray(view.written), dtype=torch.uint16).to(int).reshape(-1, 11)


def test_the_buttons_and_the_slider_walk_through_the_steps(draw, views):
    view = views["writing"]
    page, steps = draw(view), steps_of(view)[0].tolist()
    words = page.locator(".nbx-words button")
    expect(words).to_have_count(11)
    expect(words.filter(has_text="[MASK]")).to_have_count(11)
    expect(page.get_by_role("button", name="one step back")).to_be_disabled()
    for step in (1, 2, 3):
        page.get_by_role("button", name="one step on").click()
        assert get(page, "step") == step
        at = steps.index(step)
        expect(words.nth(at)).to_contain_text(view.tokens[0][at])
        expect(words.filter(has_text="[MASK]")).to_have_count(11 - step)
        expect(page.locator(".nbx-status")).to_contain_text(
            f"Step {step} of 11 wrote “{view.tokens[0][at]}” at position {at + 1}"
        )
    page.get_by_role("button", name="one step back").click()
    expect(words.filter(has_text="[MASK]")).to_have_count(9)
    page.get_by_role("slider", name="step").fill("11")
    expect(words.filter(has_text="[MASK]")).to_have_count(0)
    expect(page.get_by_role("button", name="one step on")).to_be_disabled()
    expect(page.locator(".nbx-status")).to_contain_text("The text is whole")


def test_a_gap_shows_what_fits_now_and_a_word_what_it_was_drawn_from(draw, views):
    view = views["writing"]
    page, steps, K = draw(view), steps_of(view)[0].tolist(), view.choices
    guesses = torch.frombuffer(bytearray(view.guesses), dtype=torch.uint16).to(int).reshape(-1, 11, 11, K)
    rows, last = page.locator("table tbody tr"), steps.index(11)
    page.locator(".nbx-words button").nth(last).click()
    expect(page.locator("caption")).to_have_text(f"Position {last + 1}, still a gap: what would fit now")
    for k in range(K):
        expect(rows.nth(k).locator("th")).to_have_text(view.words[guesses[0, 0, last, k]])
    page.get_by_role("slider", name="step").fill("11")
    expect(page.locator("caption")).to_have_text(f"Position {last + 1}, written at step 11: what it was drawn from")
    expect(rows.filter(has_text=f"{view.tokens[0][last]} ✓")).to_have_count(1)


def test_the_keyboard_walks_over_the_places_and_another_order_is_another_text(draw, views):
    view = views["writing"]
    page = draw(view)
    page.locator(".nbx-words button").nth(get(page, "token")).focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".nbx-words button").nth(9)).to_be_focused()
    assert get(page, "token") == 9
    page.get_by_role("combobox", name="order").select_option("left to right, draw 2")
    assert get(page, "run") == 3
    page.get_by_role("slider", name="step").fill("1")
    expect(page.locator(".nbx-words button").first).to_contain_text(view.tokens[3][0])


# --- similarity -------------------------------------------------------------------------------------------------------


def losses(view, temperature):
    scores = torch.tensor(view.cosines).double() / temperature
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="none"), scores.softmax(1)


def test_the_slider_changes_shares_loss_and_arrows(draw):
    view = similarity()
    page = draw(view)
    picture = page.locator("canvas.nbx-canvas")
    before = drawn(picture)
    for position, temperature in (("-2", 0.01), ("-1", 0.1), ("0", 1.0)):
        page.get_by_role("slider", name="temperature τ").fill(position)
        loss, shares = losses(view, temperature)
        expect(page.locator(".nbx-status")).to_contain_text(f"the loss is {loss.mean():.3f} nats")
        cells = page.locator("table td:not(:empty)").all_inner_texts()
        assert cells == [f"{share:.2f}" for share in shares.flatten().tolist()]
        now = drawn(picture)
        assert now != before
        before = now
    assert abs(get(page, "temperature") - 1) < 1e-9


def test_a_row_shows_its_formula_and_its_push(draw):
    view = similarity(temperature=0.1)
    page = draw(view)
    page.get_by_role("button", name="red").click()
    assert get(page, "row") == 0
    loss, shares = losses(view, 0.1)
    expect(page.locator(".nbx")).to_contain_text(f"= {loss[0]:.3f} nats")
    expect(page.locator(".nbx-status")).to_contain_text("Of the push on the wrong ones “green” gets")
    expect(page.locator(".nbx-status")).to_contain_text(f"its own positive has {100 * shares[0, 0]:.0f} %")
    page.get_by_role("button", name="all rows").click()
    expect(page.locator(".nbx-status")).to_contain_text("2 of 3 anchors have their own positive nearest")


def test_pointing_at_a_row_shows_it_for_the_moment(draw):
    page = draw(similarity())
    page.get_by_role("button", name="blue").hover()
    expect(page.locator(".nbx-status")).to_contain_text("“blue”: its own positive")
    page.mouse.move(1, 1)
    expect(page.locator(".nbx-status")).to_contain_text("the loss is")
    assert get(page, "row") == -1


def test_the_numbers_can_be_cosines(draw):
    view = similarity()
    page = draw(view)
    page.get_by_label("numbers").select_option("cosine")
    cells = page.locator("table td:not(:empty)").all_inner_texts()
    assert [float(cell) for cell in cells] == pytest.approx([c for row in view.cosines for c in row], abs=0.0051)


def test_a_tiny_share_gives_a_large_loss_and_no_infinity(draw):
    view = SimilarityMatrix(circle(0.0, 180.0), circle(180.0, 0.0), ["a", "b"], temperature=0.01)
    page = draw(view)
    expect(page.locator(".nbx-status")).to_contain_text("the loss is 200.000 nats")


def test_what_is_said_of_a_row_stands_below_the_matrix_so_that_no_row_moves_under_the_pointer(draw):
    page = draw(similarity())
    table = page.locator(".nbx-matrix").bounding_box()
    for said in (page.locator(".nbx-status"), page.get_by_text("loss = mean")):
        assert said.bounding_box()["y"] >= table["y"] + table["height"]


# --- explanations -----------------------------------------------------------------------------------------------------


def test_each_row_of_explanations_says_its_largest_word_and_ties(draw):
    page = draw(explanations())
    status = page.locator(".nbx-status")
    expect(status).to_have_text("The largest of each row. the truth: cook; gradient: cook = ovens; nothing: none.")
    cells = page.locator("tbody td").all_inner_texts()
    assert cells[:8] == ["0", "0.69", "0", "0", "0.20", "-0.40", "0.10", "0.40"]


def test_a_word_is_chosen_by_pointer_or_keys_and_ranked_by_each_method(draw):
    page = draw(explanations())
    page.get_by_role("button", name="cook").click()
    assert get(page, "word") == 1
    status = page.locator(".nbx-status")
    expect(status).to_contain_text("“cook” is, of 4 words, number 1 by the truth (0.69); number 1 by gradient (-0.40)")
    page.keyboard.press("ArrowRight")
    assert get(page, "word") == 2
    expect(status).to_contain_text("“near” is, of 4 words, number 2 by the truth (0); number 4 by gradient (0.10)")
    expect(page.locator("tbody td.own")).to_have_count(3)
    page.get_by_role("button", name="the").hover()
    expect(status).to_contain_text("“the” is")
    page.mouse.move(1, 1)
    expect(status).to_contain_text("“near” is")
    page.get_by_role("button", name="near").click()
    assert get(page, "word") == -1
