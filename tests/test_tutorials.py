"""The tutorials in docs/ are true: their commands and their code run."""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import basic
from basic import types
from basic.experiment import schema, settings, tasks

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# In this order, each page uses what those before have made.
PAGES = ("train", "evaluate", "weights", "embed_and_search", "large_batches", "plugin")


def blocks(page):
  """(language, code) of every block of a page that can be run."""
  text = (DOCS / f"{page}.md").read_text()
  return re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)


def is_fragment(code):
  """Whether a block is a part of a configuration: "steps=1," """
  return re.match(r"\w+=", code) is not None


def test_every_tutorial_of_the_site_is_here():
  entries = (DOCS / "index.md").read_text().split(":caption: Guides")[0]
  listed = re.findall(r"^(\w+)$", entries.split(":maxdepth: 1")[1], re.MULTILINE)
  assert tuple(listed) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_the_settings_that_a_tutorial_shows_exist(page):
  for language, code in blocks(page):
    if language == "python" and is_fragment(code):
      changes = eval(f"dict({code})")
      base = basic.config(str(ROOT / "configs" / "digits.py")).to_dict()
      settings.complete(settings.changed(base, changes))
  for path in re.findall(r"--config\.([\w.]+)=", (DOCS / f"{page}.md").read_text()):
    config = "folder" if path.startswith(("source", "evals", "augment", "image")) else (
        "digits")
    value = basic.config(str(ROOT / "configs" / f"{config}.py"))
    for part in path.split("."):
      value = value[part]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_tutorial_names_what_exists(page):
  for language, code in blocks(page):
    if language == "python" and not is_fragment(code):
      for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "basic":
          assert node.attr in basic.__all__
    for program in re.findall(r"python -m basic\.(\w+)", code):
      assert (ROOT / "basic" / f"{program}.py").exists()


def test_the_page_on_evaluations_names_all_suites_and_its_task_is_one(tmp_path):
  text = (DOCS / "evaluate.md").read_text()
  (line,) = re.findall(r"The suites are (.*?);", text)
  assert set(re.findall(r"`(\w+)`", line)) == {*tasks.suites()["suites"], "all"}
  ((name, content),) = re.findall(r"cat > (\w+\.toml) << 'END'\n(.*?)END", text, re.S)
  (tmp_path / name).write_text(content)
  task = tasks.read(tmp_path / name, data_dir=".")
  assert task.settings["source"]["path"] == "./test_pictures"
  program = (ROOT / "basic" / "evaluate.py").read_text()
  for flag in re.findall(r"--(\w+)", text.split("## Several models")[1]):
    assert f'"{flag}"' in program, flag


@pytest.fixture
def losses(tmp_path, monkeypatch):
  """The module of the page on plug-ins."""
  (tmp_path / "losses.py").write_text(blocks("plugin")[0][1])
  monkeypatch.syspath_prepend(tmp_path)
  yield schema.plugin("objectives", "losses:decoupled")
  sys.modules.pop("losses", None)


def test_the_loss_of_the_tutorial_is_its_equation(losses):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 7, 5))
  objective = losses(scale=3.0)
  views = {
      name: types.Features(jnp.float32(z)) for name, z in (("image", x), ("text", y))
  }
  params, memory = objective.init(None, None)
  value, _ = objective.apply(params, memory, types.Embedded(views, {}), None)
  x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
  expected = 0.0
  for i in range(7):
    for a, b in ((x, y), (y, x)):
      negatives = [np.exp(3.0 * a[i] @ b[j]) for j in range(7) if j != i]
      expected += (np.log(sum(negatives)) - 3.0 * a[i] @ b[i]) / 14
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def prepare(folder):
  """Pictures, and the configurations with the least work."""
  shutil.copytree(ROOT / "configs", folder / "configs")
  for name in ("folder", "digits", "digits_clip"):
    path = folder / "configs" / f"{name}.py"
    text = re.sub(r"batch_size=\d+", "batch_size=16", path.read_text())
    text = text.replace("vocab=2_000", "vocab=60")
    path.write_text(re.sub(r"steps=[\d_]+", "steps=3", text))
  rng = np.random.default_rng(0)
  for split in ("pictures", "test_pictures"):
    (folder / split).mkdir()
    rows = ["filepath,title"]
    for n in range(24):
      color, shape = ("red", "blue", "green")[n % 3], ("circle", "square")[n % 2]
      Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
          folder / split / f"{n}.png")
      rows.append(f"{n}.png,a {color} {shape} number {n} of {split}")
    (folder / split / "captions.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_all_tutorials_run_one_after_the_other(tmp_path, monkeypatch):
  prepare(tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
  (tmp_path / "losses.py").write_text(blocks("plugin")[0][1])
  for page in PAGES:
    program = "\n".join(
        code for language, code in blocks(page)
        if language == "python" and not is_fragment(code))
    commands = [code for language, code in blocks(page) if language == "bash"]
    for command in (*commands, None):
      started = [sys.executable, "-c", program] if command is None else [
          "bash", "-ec", command.replace("python ", f"{sys.executable} ")]
      done = subprocess.run(
          started, cwd=tmp_path, capture_output=True, text=True, timeout=600)
      assert done.returncode == 0, (page, command, done.stdout, done.stderr)
