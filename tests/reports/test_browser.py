"""report.html in a real browser: light and dark, narrow to wide, without a network and without a fault."""

from __future__ import annotations

import pytest

from trustsnn.reports import write

# Contrast (WCAG 2) of every visible text with the nearest ground below it, worst first.
CONTRAST = """() => {
  const parse = colour => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const light = rgb => rgb.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => { for (; element; element = element.parentElement) {
    const colour = parse(getComputedStyle(element).backgroundColor); if (colour[3] === 1) return colour; }
    return parse(getComputedStyle(document.body).backgroundColor); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest('svg') ? style.fill : style.color);
    const pair = [light(colour), light(ground(element))].sort((x, y) => y - x);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser(chromium):
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def reports(tmp_path_factory, make_full):
    """Pages of every verdict and every kind of picture, one with names that are far too long."""
    folder = tmp_path_factory.mktemp("browser")
    long = {"name": "a_model_with_a_name_that_never_ends_" * 4, "spec": {"steps": 4, "classes": 10, "encoder": "x" * 90}}
    runs = {
        "fail": make_full(folder / "fail", finding=True),
        "pass": make_full(folder / "pass", channels=3, gates=[], shift=True),
        "inconclusive": make_full(
            folder / "inconclusive",
            channels=2,
            finding=True,
            gates=["clean_accuracy >= 0.9"],
            model=long,
            data={"name": "y" * 120, "classes": ["a class of many words " * 3] * 10},
            config={"command": ["trustsnn", "audit", "z" * 300]},
        ),
    }
    return {name: write(run, ["html"])["html"].as_uri() for name, run in runs.items()}


@pytest.mark.parametrize("verdict", ["fail", "pass", "inconclusive"])
def test_no_width_needs_scrolling(browser, reports, verdict, sideways):
    assert sideways(browser, reports[verdict], range(320, 1300, 10)) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1400])
@pytest.mark.parametrize("verdict", ["fail", "pass", "inconclusive"])
def test_the_page_in_a_browser(browser, reports, verdict, width, scheme):
    faults, requests = [], []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(reports[verdict])
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

        assert faults == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        shown, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert shown <= room
        box = page.locator("#verdict").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800
        assert page.locator("#verdict").inner_text().lower() == verdict
        pictures = page.evaluate(
            "[...document.images].map(i => [i.complete, i.naturalWidth, getComputedStyle(i).imageRendering])"
        )
        assert len(pictures) == 4 * 6 * 3
        assert {tuple(one) for one in pictures} == {(True, 8, "pixelated")}
        figures = page.locator("figure svg:visible")
        assert figures.count() == 2
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 100
        assert texts[0][0] >= 4.5, texts[:5]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    finally:
        page.close()
