"""Pages opened from a disk in Chromium: no error, no request, no side scrolling."""

import browser
import made
import pytest
import test_document

from basic.pages import page

pytestmark = pytest.mark.skipif(
    browser.PROGRAM is None,
    reason="Chromium is not installed; apt-get install chromium",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
  with browser.Browser(tmp_path_factory.mktemp("profile")) as found:
    yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pages")
  texts = {
      "whole": made.whole(),
      "hostile": page.page(**test_document.bad_names()),
      "comparison": test_document.compared(),
      "empty": made.build(rows=[], samples=None, config={}, command=""),
      "images": made.build(
          rows=[], samples=made.samples()._replace(text_embeddings=None)),
  }
  for name, text in texts.items():
    (folder / f"{name}.html").write_bytes(text.encode())
  return folder


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize(
    "name", ["whole", "hostile", "comparison", "empty", "images"])
def test_a_page_has_no_error_no_request_and_no_side_scrolling(
    chromium, pages, name, width, scheme
):
  url = (pages / f"{name}.html").as_uri()
  chromium.open(url, width, scheme)
  assert chromium.complaints() == []
  assert chromium.requests() == [url]
  assert chromium.evaluate("document.documentElement.scrollWidth") <= width
  assert chromium.evaluate("document.querySelectorAll('script').length") == 0
  background = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
  dark = sum(map(int, background[4:-1].split(","))) < 3 * 128
  assert dark == (scheme == "dark")


def test_plots_and_bars_are_drawn_under_the_policy(chromium, pages):
  chromium.open((pages / "whole.html").as_uri(), 1280)
  stroke = "getComputedStyle(document.querySelector('.plots svg path[stroke]')).stroke"
  assert chromium.evaluate(stroke).startswith("rgb(")
  assert chromium.evaluate("document.querySelector('.w100').offsetWidth") > 20
  assert chromium.evaluate(
      "[...document.images].every(each => each.naturalWidth > 0)")
  assert chromium.evaluate("document.images.length") > 20


def test_the_policy_stops_what_slipped_in(chromium, pages):
  text = made.build(rows=[], samples=None).replace(
      "</main>",
      "<p id=x style='color:red' onclick='0'>x</p><script>document.title = 'bad'"
      "</script><img src='http://127.0.0.1:9/x'></main>",
  )
  (pages / "slipped.html").write_text(text)
  chromium.open((pages / "slipped.html").as_uri(), 1280)
  assert chromium.complaints()
  assert chromium.evaluate("document.title") == "run"
  assert chromium.evaluate(
      "getComputedStyle(document.getElementById('x')).color") != "rgb(255, 0, 0)"
