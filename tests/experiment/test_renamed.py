"""A setting that was renamed works under its old name, with a warning."""

import json
import shutil
import sys
import warnings

import pytest
import tiny

from basic import optim, train
from basic.experiment import renamed, restore, settings
from basic.recording import manifest

ROWS = (("image/.*", 0.5),)


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def config(**optimizer):
  return tiny.config(optimizer=dict(name="adamw", peak=1e-2, **optimizer))


def test_the_old_name_means_the_new_one_and_a_warning_says_so():
  with pytest.warns(
      FutureWarning, match=r"optimizer\.rates is now called lr_multipliers"
  ):
    old = settings.complete(config(rates=ROWS))
  assert old == settings.complete(config(lr_multipliers=ROWS))
  assert "rates" not in old["optimizer"]


def test_both_names_at_once_are_refused():
  with pytest.raises(
      ValueError, match="'rates' is the old name of 'lr_multipliers', and both"
  ):
    settings.complete(config(rates=ROWS, lr_multipliers=ROWS))


@pytest.mark.parametrize("given, new", [
    ("rates", "lr_multipliers"), ("factor_from", "min_dim_size_to_factor"),
    ("average", "ema_decay"), ("trust", "trust_coefficient"),
])
def test_optimizers_list_their_old_names(given, new):
  assert optim.RENAMED[given] == new
  takers = [
      name for name in ("adafactorw", "adamw", "lamb", "lars", "lion", "sgd")
      if new in renamed.table(getattr(optim, name)).values()
  ]
  assert takers


def test_a_row_holds_only_where_the_new_name_is_a_setting():
  assert "factor_from" not in renamed.table(optim.adamw)
  with pytest.raises(ValueError, match="no setting 'factor_from'"):
    settings.complete(config(factor_from=32))


@pytest.mark.parametrize("base, stage", [
    ("rates", "rates"), ("rates", "lr_multipliers"), ("lr_multipliers", "rates"),
])
def test_a_stage_may_use_either_name(base, stage):
  new = {
      **config(lr_multipliers=ROWS),
      "stages": (dict(optimizer=dict(lr_multipliers=())), dict(steps=3)),
  }
  given = {
      **config(**{base: ROWS}),
      "stages": (dict(optimizer={stage: ()}), dict(steps=3)),
  }
  with pytest.warns(FutureWarning, match="lr_multipliers"):
    full = settings.complete(given)
  assert full == settings.complete(new)


# One plug-in of every folder, and where in a configuration it is named.
PLUGINS = {
    "image": lambda name: dict(image=name),
    "objective": lambda name: dict(objective=name),
    "source": lambda name: dict(source=name),
    "gradient": lambda name: dict(gradient=name),
    "evals.x": lambda name: dict(
        evals=dict(x={**name, "source": dict(name="digits")})),
    "evals.x.source": lambda name: dict(
        evals=dict(x=dict(name="retrieval", source=name))),
}


@pytest.mark.parametrize("where, plugin, old, new, value", [
    ("image", "vit", "thin", "stochastic_depth", 0.25),
    ("objective", "softmax", "soften", "smoothing", 0.25),
    ("source", "digits", "part", "split", "test"),
    ("gradient", "cached", "parts", "chunks", 2),
    ("evals.x", "retrieval", "most", "limit", 3),
    ("evals.x.source", "digits", "part", "split", "test"),
])
@pytest.mark.parametrize("place", ["the module", "the folder"])
def test_any_plugin_can_rename_a_setting(
    monkeypatch, where, plugin, old, new, value, place
):
  before = {**tiny.config(), "image": dict(
      name="vit", width=16, depth=1, heads=2, patch=8)}
  plain = {"name": plugin}
  if plugin == "vit":
    plain = before["image"]
  wanted = settings.complete({**before, **PLUGINS[where]({**plain, new: value})})
  folder = {"image": "encoders", "objective": "objectives", "source": "sources",
            "gradient": "gradient", "evals.x": "evals",
            "evals.x.source": "sources"}[where]
  module = f"basic.{folder}"
  if new == "limit":  # of every evaluation, so in manual.py
    module = "basic.experiment"
    plugin = "manual"
  if place == "the module":
    module = f"{module}.{plugin}"
  monkeypatch.setattr(sys.modules[module], "RENAMED", {old: new}, raising=False)
  with pytest.warns(FutureWarning, match=rf"{where}\.{old} is now called {new};"):
    found = settings.complete(
        {**before, **PLUGINS[where]({**plain, old: value})})
  assert found == wanted


def aged(folder):
  """Writes config.json as the version before the renaming would have."""
  path = folder / "config.json"
  stored = json.loads(path.read_text())
  optimizer = stored["optimizer"]
  optimizer["rates"] = optimizer.pop("lr_multipliers")
  del optimizer["ema_decay"]  # as if it were newer than the run
  path.write_text(json.dumps(stored))
  return path.read_bytes()


def test_a_run_that_began_under_old_names_is_read_and_resumed(tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(tiny.whole(), folder)
  before = aged(folder)
  full = settings.complete(tiny.config())
  with pytest.raises(ValueError, match="other settings"):
    manifest.check(folder, full)
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # the file is not the user's to change
    stage, state = restore.load(folder)
    manifest.check(folder, full, upgrade=settings.upgraded)
    train.train(tiny.config(), folder)
  assert int(state.step) == stage.end
  assert (folder / "config.json").read_bytes() == before


def test_another_value_under_an_old_name_is_another_run(tmp_path):
  manifest.begin(tmp_path, settings.complete(tiny.config()), command=[])
  aged(tmp_path)
  other = tiny.config()
  other["optimizer"] = {**other["optimizer"], "lr_multipliers": ROWS}
  with pytest.raises(ValueError, match=r"optimizer/lr_multipliers: \[\] ->"):
    manifest.check(
        tmp_path, settings.complete(other), upgrade=settings.upgraded)


@pytest.mark.parametrize("stored", [
    [1], "x", {"steps": "two", "optimizer": {"name": "adamw", "rates": []}}])
def test_what_is_no_configuration_of_this_version_stays_what_it_is(stored):
  found = settings.upgraded(stored)
  if isinstance(stored, dict):
    assert found["optimizer"] == {"name": "adamw", "lr_multipliers": []}
  else:
    assert found == stored
