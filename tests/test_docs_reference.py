"""The reference has every plug-in and setting, and the site builds and opens."""

import ast
import doctest
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = (
    "objectives", "encoders", "sources", "augmentations", "evals", "weights",
    "gradient", "optim", "preparation",
)


@pytest.fixture(scope="module")
def listing():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs"))
    import listing
    yield listing


@pytest.fixture(scope="module")
def pages(listing):
  return listing.pages()


def written(folder):
  """Plug-ins by name, as syntax trees of their functions."""
  found = {}
  for path in (ROOT / "basic" / folder).glob("[!_]*.py"):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.FunctionDef) and node.name == path.stem:
        returns = ast.unparse(node.returns).split(".")[-1]
        # Beside optimizers, their folder has parts of them.
        if folder != "optim" or returns == "Optimizer":
          found[path.stem] = node
  return found


def missing(function, page):
  """What the page does not say of a function: its name, settings, defaults."""
  if f"\n## {function.name}\n" not in page:
    return [function.name]
  section = re.split(r"\n## ", page.split(f"\n## {function.name}\n")[1])[0]
  lacking = []
  arguments = function.args
  for argument, default in zip(
      arguments.kwonlyargs, arguments.kw_defaults, strict=True
  ):
    entry = re.search(rf"^`{argument.arg}`: `(.*)\n: \S", section, re.MULTILINE)
    if entry is None:
      lacking.append(argument.arg)
    elif isinstance(default, ast.Constant):
      text = ast.unparse(default).replace("'", '"')
      if not re.search(rf"= `{re.escape(text)}`", entry[1]):
        lacking.append(f"{argument.arg} = {text}")
    elif default is None and "required" not in entry[1] and (
        "supplied" not in entry[1]
    ):
      lacking.append(f"{argument.arg} is required")
  return lacking


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_plugin_and_setting_in_a_folder_is_on_its_page(folder, pages):
  functions = written(folder)
  assert functions
  assert not {
      name: lacking for name, function in functions.items()
      if (lacking := missing(function, pages[f"{folder}.md"]))
  }
  assert f"\n{folder}\n" in pages["index.md"]


def test_what_is_not_on_a_page_is_found(pages):
  softmax = written("objectives")["softmax"]
  page = pages["objectives.md"]
  assert missing(softmax, page.replace("## softmax", "## sofmax")) == ["softmax"]
  assert missing(softmax, page.replace("`smoothing`:", "`smooth`:")) == ["smoothing"]
  stale = page.replace("`0.0`", "`0.1`")
  assert missing(softmax, stale) == ["smoothing = 0.0"]


def test_every_setting_of_the_manual_is_on_the_page_of_settings(pages):
  tree = ast.parse((ROOT / "basic" / "experiment" / "manual.py").read_text())
  functions = [x for x in tree.body if isinstance(x, ast.FunctionDef)]
  assert len(functions) > 5
  for function in functions:
    assert missing(function, pages["settings.md"]) == []


def test_equations_are_shown_as_they_are_written(pages):
  assert "```text\nL = (1/2b) sum_i (log sum_j exp s_ij - q_i)\n" in (
      pages["objectives.md"])
  assert "\n  + (1/2b) sum_j (log sum_i exp s_ij - q_j),\n```" in (
      pages["objectives.md"])


def test_every_program_is_on_its_page(pages):
  text = (ROOT / "basic" / "cli.py").read_text()
  programs = {
      path.stem for path in (ROOT / "basic").glob("*.py")
      if '__name__ == "__main__"' in path.read_text()
  }
  assert text and {"train", "plan"} <= programs
  for name in programs:
    assert f"\n## basic.{name}\n" in pages["programs.md"], name


@pytest.mark.parametrize("text", [
    "s_ij = t <x_i, y_j> and *args, **more_of_it_",
    "[b k] in [0, 1), $XDG_CACHE_HOME, a|b, #1, ~x, {name}",
    'places such as "a/{00..12}.tar", 4 * width, !not, back\\slash',
    "*all* of [b](k), _x_ of a <b> and <c>, ~~d~~, | e |, # f, \\*",
])
def test_prose_means_what_it_meant_after_markdown(listing, text):
  markdown_it = pytest.importorskip("markdown_it")
  import docstrings
  shown = markdown_it.MarkdownIt().enable("table").render(docstrings.prose(text))
  assert html.unescape(re.sub(r"<[^>]+>", "", shown)).strip() == text


def test_examples_of_the_generator_print_what_they_say(listing):
  import docstrings
  for module in (listing, docstrings):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_pages_that_have_not_changed_are_not_written_again(listing, tmp_path):
  listing.write(tmp_path)
  (tmp_path / "gone.md").write_text("of a folder that was removed")
  before = (tmp_path / "index.md").stat().st_mtime_ns
  listing.write(tmp_path)
  assert (tmp_path / "index.md").stat().st_mtime_ns == before
  assert not (tmp_path / "gone.md").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The site of this checkout, with warnings as errors."""
  for name in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(name, reason="pip install -e .[docs]")
  folder = tmp_path_factory.mktemp("site")
  shutil.copytree(
      ROOT / "docs", folder / "docs",
      ignore=shutil.ignore_patterns("reference", "__pycache__"))
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  built = subprocess.run(
      [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going",
       "--quiet", "-b", "html", str(folder / "docs"), str(folder / "html")],
      env=environment, capture_output=True, text=True, timeout=300,
  )
  assert built.returncode == 0, built.stderr
  return folder / "html"


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(site):
  assert (site / "reference" / "objectives.html").exists()
  for file in site.rglob("*.html"):
    text = file.read_text()
    loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"([^\"]*)", text)
    loaded += re.findall(r"<link\b[^>]*\bhref=\"([^\"]*)", text)
    assert not [each for each in loaded if "//" in each], file
  for file in site.rglob("*.css"):
    assert not re.search(r"url\(['\"]?(https?:)?//", file.read_text()), file


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_open_from_disk_without_errors_and_without_side_scrolling(site, width):
  playwright = pytest.importorskip("playwright.sync_api")
  program = shutil.which("chromium") or pytest.skip("Chromium is not installed")
  with playwright.sync_playwright() as running:
    browser = running.chromium.launch(executable_path=program)
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for file in sorted(site.rglob("*.html")):
      page.goto(file.as_uri())
      wide = page.evaluate("document.documentElement.scrollWidth")
      assert wide <= width, (file, wide)
    browser.close()
  assert not said
  assert not [url for url in asked if not url.startswith(("file:", "data:"))]
