"""The picture of a partition: every entry drawn, areas and heights on one scale, and nothing on top of anything from 3 to 200 clients."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pytest

from trustsnn.reports.partition import described, partition

CLASSES = [str(digit) for digit in range(10)]


def table(clients, kinds=10, seed=0):
    draws = np.random.default_rng(seed)
    return np.array([draws.multinomial(100, draws.dirichlet(np.full(kinds, 0.3))) for _ in range(clients)])


def strokes(svg, colour, cap="round"):
    """Width and places of what is drawn as lines of a colour."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
    found = [(style, re.findall(r"M ([-\d.]+) ([-\d.]+) *\s*L ([-\d.]+) ([-\d.]+)", d)) for d, style in paths]
    for style, places in found:
        if f"stroke: {colour}" in style and (cap == "butt" or f"stroke-linecap: {cap}" in style):
            width = float(re.search(r"stroke-width: ([\d.]+)", style)[1]) if "stroke-width" in style else 1.0
            yield width, [tuple(map(float, place)) for place in places]


def circles(svg):
    return [(width, x, y) for width, places in strokes(svg, "var(--series-1)") for x, y, *_ in places]


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("width", [340, 820])
@pytest.mark.parametrize("clients", [1, 3, 8, 20, 57, 200])
def test_every_entry_is_drawn_once_inside_the_figure_and_apart_from_the_others(clients, width):
    counts = table(clients)
    svg = partition(counts, CLASSES, width, "p")
    drawn = circles(svg)
    assert len(drawn) == (counts > 0).sum()
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert wide == width
    assert all(size / 2 <= x <= wide - size / 2 and size / 2 <= y <= high - size / 2 for size, x, y in drawn)
    places = np.array([(x, y) for _, x, y in drawn])
    apart = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) + 99 * np.eye(len(places))
    assert apart.min() > 10  # centres; no circle hides the next
    bars = [place for _, found in strokes(svg, "var(--rest)", "butt") for place in found]
    assert len(bars) == clients


def test_areas_and_heights_are_the_counts():
    counts = np.array([[400, 100, 25], [4, 0, 0], [100, 100, 100]])
    svg = partition(counts, "abc", 820, "p")
    sizes = sorted(size for size, _, _ in circles(svg))[::-1]
    assert np.allclose(np.array(sizes) / sizes[0], np.sqrt([1, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 16, 4 / 400]), atol=0.02)
    heights = [place[1] - place[3] for _, found in strokes(svg, "var(--rest)", "butt") for place in found]
    assert np.allclose(np.array(heights) / heights[0], [1, 4 / 525, 300 / 525], atol=1e-3)
    assert "bar: samples of a client, up to 525; circle: of one class, up to 400" in texts(svg)
    assert {"400", "25", "525"} <= set(texts(svg))


def test_names_stand_below_few_clients_and_numbers_below_many():
    names = ["north $\\frac{", "<b>&", "x" * 90]
    svg = partition(table(3), CLASSES, 820, "p", names)
    assert "north $\\frac{" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert "x" * 90 not in svg
    many = texts(partition(table(60), CLASSES, 820, "p", [f"client {n}" for n in range(60)]))
    assert not any(text.startswith("client ") for text in many)
    assert {"0", "58"} <= set(many)


def test_many_classes_leave_out_labels_and_stay_small():
    svg = partition(table(200, 100), [f"class {n}" for n in range(100)], 820, "p")
    assert "class 3" in texts(svg)
    assert "class 1" not in texts(svg)
    assert len(svg) < 700_000
    assert len(partition(table(200), CLASSES, 820, "p")) < 200_000


def test_equal_partitions_are_equal_bytes_in_the_colours_of_the_page():
    before = partition(table(30), CLASSES, 820, "p")
    with matplotlib.rc_context({"font.size": 30, "path.simplify_threshold": 1.0, "lines.solid_capstyle": "butt"}):
        assert partition(table(30).tolist(), tuple(CLASSES), 820, "p") == before
    assert "http" not in before
    assert "#0" not in before.replace('href="#p-', "").replace("url(#p-", "")


def test_in_words():
    assert described([[5, 0], [1_000, 1]]) == (
        "2 clients with 1,006 samples: from 5 to 1,001 each, median 503; of 2 classes each has 1 to 2, median 1.5."
    )
    assert described([[3, 4]]).startswith("1 client with 7 samples")
