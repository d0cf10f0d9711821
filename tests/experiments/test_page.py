"""The page: complete in one file, escaped, and without problems in a real browser."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import look, needs_chromium

from pcka.experiments.pages.curves import curves_figure
from pcka.experiments.pages.html import Picture, Section, Table, html_page

HOSTILE = "<script>alert('a & \"b\"')</script>"
LONG = "MODEL.PCKA.TERMS.a_name_without_any_place_to_break_it_at.LOSS_ARGS.patch_size"


@pytest.fixture(scope="module")
def figure():
    steps = np.arange(5)
    return curves_figure({"cka/pcka_p2": (steps, steps / 5)}, x_label="iteration")


@pytest.fixture(scope="module")
def page(figure):
    columns = ["", *(f"column {i}" for i in range(9))]
    return html_page(
        f"A run {LONG}",
        [
            Section("Results", ["Text " * 40, LONG], [Table([columns, [LONG, *"123456789"]])]),
            Section("Pictures", (), [Picture(figure, "CKA"), Picture(figure, "wide", wide=True)]),
            Section("Nothing", ["No picture."]),
        ],
        lead=LONG,
    )


class Reader(HTMLParser):
    """Tags in order, with their attributes, and all text outside of the style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_everything_is_inside_and_nothing_runs(page):
    reader = Reader(page)
    for name, attributes in reader.tags:
        for key in ("src", "href", "srcset", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (name, key)
    assert not reader.all("script") and not reader.all("iframe") and "url(" not in page
    assert "@import" not in page and "http" not in page


def test_headings_and_landmarks(page):
    reader = Reader(page)
    names = [name for name, _ in reader.tags if name in ("h1", "h2", "h3")]
    assert names == ["h1", "h2", "h2", "h2"]
    assert reader.all("html") == [{"lang": "en"}]
    assert [len(reader.all(tag)) for tag in ("main", "header", "nav", "section")] == [1, 1, 1, 3]
    targets = {h["id"] for h in reader.all("h2")}
    assert {a["href"].removeprefix("#") for a in reader.all("a")} == targets
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all(
        "meta"
    )
    assert [image["alt"] for image in reader.all("img")] == ["CKA", "wide"]
    assert {th["scope"] for th in reader.all("th")} == {"row", "col"}


def test_every_text_is_escaped(figure):
    parts = [Table([[HOSTILE, HOSTILE]] * 2, HOSTILE), Picture(figure, HOSTILE, HOSTILE, wide=True)]
    page = html_page(HOSTILE, [Section(HOSTILE, [HOSTILE], parts)], lead=HOSTILE)
    reader = Reader(page)
    assert not reader.all("script")
    # title, h1, lead, link, h2, paragraph, caption, four cells, caption of the picture
    assert sum(text == HOSTILE for text in reader.text) == 12
    assert reader.all("img")[0]["alt"] == HOSTILE


def test_a_dollar_is_no_placeholder():
    assert "$title costs $5" in html_page("$title costs $5", [Section("$sections", ["$x"])])


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_sound_in_a_browser(page, tmp_path, width):
    assert look(page, tmp_path, width=width) == {"problems": [], "pictures": 2, "width": width}


@needs_chromium
@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("<script>console.error('oh no')</script>", ["console: .*oh no"]),
        ("<script>undefined_function()</script>", ["console: .*function is not defined"]),
        (
            '<img src="data:image/png;base64,AAAA" alt="damaged"><img src="nowhere.png">',
            ["picture 2 is missing", "picture 3 is missing", "picture 3 has no alternative text"],
        ),
        ('<div style="width: 400px">wide</div>', [r"4\d\d pixels wide on a screen of 360"]),
    ],
    ids=["error", "exception", "pictures", "overflow"],
)
def test_the_browser_finds_what_is_broken(page, tmp_path, broken, expected):
    problems = look(page.replace("</main>", broken + "</main>"), tmp_path)["problems"]
    found = [problem for problem in problems if "ERR_FILE_NOT_FOUND" not in problem]
    assert len(found) == len(expected), problems
    for problem, words in zip(found, expected, strict=True):
        assert re.match(words, problem), problems
