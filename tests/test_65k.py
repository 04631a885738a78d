"""configs/digits_65k.py is exact: at a size where direct fits, it says so."""

import checks
import experiments
import pytest
import tiny

from basic.experiment import build, settings


def changed(config, rows, gradient):
  first = {**build.stage_configs(config)[0], "evals": {}}
  return settings.complete(
      {**first, "batch_size": rows, "gradient": gradient}
  )


def one_step(config, folder):
  """(loss, norm of its gradient) of the first batch."""
  stage, = build.run(config, folder)
  with stage.program.layout.context():
    with stage.stream(0) as stream:
      batch = stage.program.layout.shard(next(stream))
    state = stage.program.fresh()
    # Once through either of them: what the compiler saves is more.
    update = stage.program.update.lower(state, batch).compile(checks.HASTE)
    _, metrics = update(state, batch)
  return float(metrics["loss"]), float(metrics["gradient_norm"])


@pytest.mark.parametrize("rows", [
    256, pytest.param(4_096, marks=pytest.mark.slow),
])
def test_its_chunks_give_the_loss_and_gradient_of_the_whole_batch(
    rows, tmp_path, monkeypatch
):
  tiny.one_device(monkeypatch)
  config = experiments.read("digits_65k")
  cached = config["stages"][0]["gradient"]
  ways = {
      "cached": {**config["gradient"], **cached}, "direct": dict(name="direct"),
  }
  found = {
      # One vocabulary for both, which the folder keeps.
      name: one_step(changed(config, rows, how), tmp_path)
      for name, how in ways.items()
  }
  (loss, norm), (expected, length) = found["cached"], found["direct"]
  # Blocks of a sum are of 1,024 terms at most; features have 48.
  limit = checks.rounding(min(rows, 1_024) + 48)
  assert loss == pytest.approx(expected, rel=limit)
  assert norm == pytest.approx(length, rel=limit)
  print(f"{rows} rows: cached {loss:.7f}, direct {expected:.7f}")
