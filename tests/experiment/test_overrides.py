"""Every setting can be set beside a file, and nothing that is none."""

import copy

import experiments
import ml_collections
import pytest

from basic import cli, paths
from basic.experiment import overrides, sanity, schema, settings


def config(**changes):
  """Few settings, so that most are at their defaults."""
  return dict(
      steps=10, batch_size=8, source=dict(name="digits"),
      image=dict(name="vit", width=16, depth=1, heads=2, patch=8),
      text=dict(
          name="text_transformer", vocab=64, length=8, width=16, depth=1, heads=2),
      objective=dict(name="softmax"), optimizer=dict(name="adamw", peak=1e-3),
      evals=dict(single=dict(name="zeroshot", source=dict(name="digits"))),
  ) | changes


def at(tree, path):
  for key in path.split("."):
    tree = tree[key]
  return tree


@pytest.mark.parametrize(("path", "text", "expected"), [
    ("checkpoint.every", "50", 50),
    ("checkpoint.keep_every", "None", None),
    ("steps", "1_000", 1000),
    ("optimizer.decay", "1", 1.0),
    ("optimizer.peak", ".5", 0.5),
    ("optimizer.no_decay", "a/.*", ("a/.*",)),
    ("optimizer.lr_multipliers", "(('a/.*', .1),)", (("a/.*", 0.1),)),
    ("evals.single.limit", "100", 100),
    ("evals.single.templates", "['a {}', '{}']", ("a {}", "{}")),
    ("evals.single.source.kind", "pairs", "pairs"),
    ("evals.single.label_captions.templates", "a {}", ("a {}",)),
    ("record.tensorboard", "false", False),
    ("record.wandb.project", "mine", "mine"),
    ("photometric.image.gray", ".2", 0.2),
    ("tokenizer.model", "007", "007"),
    ("image.dtype", "float32", "float32"),
    ("loader.shuffle", "None", None),
    ("projection.width", "32", 32),
    ("frozen", "text/.*", ("text/.*",)),
    ("text", "None", None),
])
@pytest.mark.parametrize("kind", [dict, ml_collections.ConfigDict])
def test_what_a_file_leaves_at_its_default_can_be_set(kind, path, text, expected):
  given = kind(config())
  if kind is not dict:
    given.lock()
  before = copy.deepcopy(given)
  found = overrides.apply(given, [f"{path}={text}"])
  assert given == before
  assert type(found) is kind
  assert at(settings.complete(sanity.plain(found)), path) == expected
  with_it = paths.flatten(sanity.plain(found))
  changed = {
      p.replace("/", ".") for p, x in with_it.items()
      if p not in paths.flatten(sanity.plain(before))
      or x != paths.flatten(sanity.plain(before))[p]
  }
  assert changed == {path}  # And nothing else.


def test_names_come_before_the_settings_of_what_they_name():
  full = settings.complete(overrides.apply(config(), [
      "gradient.chunks={'image': 4, 'text': 2}", "gradient.name=cached",
      "evals.mine.source.kind=scenes", "evals.mine.source.name=digits",
      "evals.mine.batch_size=4", "evals.mine.name=retrieval",
      "source.sources.a.kind=single", "source.sources.a.name=digits",
      "source.weights={'a': 1}", "source.name=mixture",
      "weights.path=x", "weights.name=hf_clip",
  ]))
  assert full["gradient"]["chunks"] == {"image": 4, "text": 2}
  assert full["evals"]["mine"]["source"]["kind"] == "scenes"
  assert full["source"]["sources"]["a"]["kind"] == "single"
  assert full["weights"]["path"] == "x"


def test_the_last_of_two_is_in_force():
  assert overrides.apply(config(), ["steps=5", "steps=6"])["steps"] == 6


def test_stages_take_what_they_change_and_what_they_inherit():
  stages = (dict(steps=5), dict(steps=6, fresh=("objective/.*",)))
  given = ml_collections.ConfigDict(config(stages=stages))
  found = sanity.plain(overrides.apply(given, [
      "stages[0].steps=7", "stages[-1].optimizer.b2=.9",
      "stages[1].evals.single.limit=3", "stages[0].text=None",
      "stages[1].fresh=text/.*",
  ]))
  assert found["stages"] == (
      dict(steps=7, text=None),
      dict(steps=6, fresh=("text/.*",), optimizer=dict(b2=0.9),
           evals=dict(single=dict(limit=3))),
  )
  assert sanity.plain(given)["stages"] == stages


def test_what_refers_to_a_setting_follows_it():
  given = ml_collections.ConfigDict(config())
  given.evals.single.batch_size = given.get_ref("batch_size")
  found = overrides.apply(given, ["batch_size=32"])
  assert (found.evals.single.batch_size, given.batch_size) == (32, 8)


@pytest.mark.parametrize(("assignment", "sentence"), [
    ("optimzer.peak=1", r"no setting 'optimzer'; did you mean 'optimizer'"),
    ("optimizer.paek=1", r"adamw has no setting 'paek'; did you mean 'peak'"),
    ("checkpoint.evry=1", r"checkpoint has no setting 'evry'; did you mean 'every'"),
    ("evals.singel.limit=1", r"no 'singel'; did you mean 'single'.*singel\.name="),
    ("evals.single.lmit=1", r"zeroshot has no setting 'lmit'; did you mean 'limit'"),
    ("evals.single.source.kid=1", r"digits has no setting 'kid'.*'kind'"),
    ("projection.views=1", r"no setting 'views'"),
    ("weights.path=x", r"weights has no 'name'"),
    ("weights.paht=x", r"weights has no 'name'"),
    ("image.name=vti", r"vti"),
    ("optimizer.peak=high", r"optimizer\.peak is 'high' \(str\); it takes float"),
    ("steps=1e3", r"steps is 1000\.0 \(float\); it takes int"),
    ("evals=7", r"evals is 7 \(int\)"),
    ("steps.x=1", r"steps takes int, which has no settings of its own"),
    ("steps", r"found 'steps'; expected .* optimizer\.peak=1e-3"),
    ("=3", r"found '=3'; expected"),
    ("stages[0].steps=1", r"stages\[0\] is not there: .* has 0 stages"),
    ("stages.steps=1", r"a stage has settings of its own"),
    ("stages.optimizer.peak=1", r"has 0 stages; name one.*stages\[0\]\.optimizer"),
])
def test_what_is_no_setting_is_refused_in_a_sentence(assignment, sentence):
  with pytest.raises(ValueError, match=sentence):
    settings.complete(overrides.apply(config(), [assignment]))


def test_a_number_in_place_of_a_group_is_named():
  given = config(gradient=dict(name="cached", chunks=2))
  with pytest.raises(ValueError, match=r"chunks is 2 .*set gradient\.chunks as"):
    overrides.apply(given, ["gradient.chunks.image=4"])


@pytest.mark.parametrize("name", experiments.NAMES)
def test_every_setting_of_every_file_is_known_by_its_path(name):
  full = experiments.read(name)
  plain = {k: v for k, v in full.items() if k != "stages"}
  found = overrides.apply(plain, [
      f"{path.replace('/', '.')}={value!r}"
      for path, value in paths.flatten(plain).items()
      if not path.endswith("/name") and schema.tuples(value) != {}
      and "json/" not in path  # Keys of words in a source, with slashes.
      and not isinstance(value, str)
  ])
  assert settings.complete({**found, "stages": full["stages"]}) == full


def test_settings_are_taken_out_of_a_command_line():
  parse = cli.parser(lambda rest: [x for x in rest if x[0] != "-"], overrides.split)
  assert parse([
      "train", "--config=a.py", "--config.steps=5", "-config.text", "None",
      "--noconfig.record.tensorboard", "--config.checkpoint.keep", "-1",
      "--config.stages[0].text=a=b", "--workdir=x", "--config.flag",
  ]) == [
      "train", "steps=5", "text=None", "record.tensorboard=False",
      "checkpoint.keep=-1", "stages[0].text=a=b", "flag=True",
  ]
  with pytest.raises(SystemExit, match="found 'astray', which is no flag"):
    parse(["train", "astray", "--config.steps=5"])
