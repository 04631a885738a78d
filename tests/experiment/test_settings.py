"""A configuration is checked and completed before any device is touched."""

import copy
import importlib.util
import inspect
import json
import pathlib
import re

import pytest

from basic.experiment import manual, settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEAST = dict(
    steps=2, batch_size=16,
    source=dict(name="digits"), objective=dict(name="softmax"),
    optimizer=dict(name="adamw"),
    image=dict(name="vit", width=16, depth=1, heads=2, patch=8),
    text=dict(name="text_transformer"),
)


def changed(**changes):
  return settings.changed(LEAST, changes)


def names(tree, prefix=""):
  """Every setting there is, by path."""
  for key, value in tree.items():
    yield f"{prefix}{key}"
    if isinstance(value, dict):
      yield from names(value, f"{prefix}{key}.")


def test_what_is_left_out_is_filled_in():
  full = settings.complete(LEAST)
  assert full["seed"] == 0
  assert full["gradient"] == {"name": "direct"}
  assert full["objective"]["max_scale"] == 100.0
  assert full["mesh"] == {"data": -1, "fsdp": 1, "model": 1}
  assert full["checkpoint"]["every"] == 1_000
  assert full["image"]["name"] == "vit" and full["image"]["width"] == 16
  assert full["evals"] == {} and full["stages"] == ()
  assert "steps" not in full["optimizer"]  # the stage's, not a setting


def test_a_complete_configuration_is_complete_and_plain_data():
  full = settings.complete(LEAST)
  assert settings.complete(full) == full
  again = settings.complete(json.loads(json.dumps(full)))
  assert again == full


def test_completing_changes_nothing_that_was_given():
  before = copy.deepcopy(LEAST)
  settings.complete(LEAST)
  assert LEAST == before


def test_an_evaluation_has_settings_of_its_own_and_of_its_evaluator():
  full = settings.complete(changed(evals=dict(pairs=dict(
      name="zeroshot", limit=8, source=dict(name="digits", split="test"),
  ))))
  found = full["evals"]["pairs"]
  assert found["limit"] == 8 and found["batch_size"] > 0
  assert found["every"] is None and "templates" in found
  assert found["source"]["split"] == "test" and found["source"]["canvas"]
  assert "tokenize" not in found  # what the program gives
  assert settings.complete(full) == full


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(setps=2), r"config: .* no setting 'setps'; did you mean 'steps'"),
        (dict(steps="two"), r"config.steps is 'two' \(str\); it takes int"),
        (dict(objective=dict(name="softmaxx")), "did you mean 'softmax'"),
        (dict(objective=dict(name="softmax", scael=1.0)),
         r"objective: softmax\(\) has no setting 'scael'; did you mean 'scale'"),
        (dict(optimizer=dict(peak=1.0, name="sgd", b1=0.9)),
         r"sgd\(\) has no setting 'b1'"),
        (dict(image=dict(name="vit", width="wide")), "image.width is 'wide'"),
        (dict(gradient=dict(name="cashed")), "did you mean 'cached'"),
        (dict(gradient=dict(name="cached")), "needs the setting 'chunks'"),
        # Set once for gradient and optimizer alike, and not here.
        (dict(gradient=dict(name="direct", frozen=("image/.*",))),
         r"direct\(\) has no setting 'frozen'"),
        (dict(optimizer=dict(name="adam")), "no 'adam' in basic.optim; did"),
        (dict(mesh=dict(modle=2)), "mesh: .* did you mean 'model'"),
        (dict(projection=dict(width=8, views={})),
         r"model\(\) has no setting 'views'"),
        (dict(projection=dict(wdith=8)), "did you mean 'width'"),
        (dict(record=dict(evry=1)), "record: .* did you mean 'every'"),
        (dict(checkpoint=dict(every="often")), "checkpoint.every is 'often'"),
        (dict(tokenizer=dict(modle="x")), "tokenizer: .* did you mean 'model'"),
        (dict(augment=dict(siez=32)), "augment: .* did you mean 'size'"),
        (dict(evals=dict(x=dict(name="zeroshot"))),
         r"evals.x: evaluation\(\) needs the setting 'source'"),
        (dict(evals=dict(x=dict(source=dict(name="digits")))),
         r"evals.x has no 'name', which says what to build"),
        (dict(evals=dict(x=dict(
            name="zero", source=dict(name="digits")))), "in basic/evals"),
        (dict(evals=dict(x=dict(
            name="zeroshot", source=dict(name="digits", spilt="test")))),
         r"evals.x.source: digits\(\) has no setting 'spilt'"),
        (dict(stages=(dict(objectiv=dict(name="sigmoid")),)),
         "did you mean 'objective'"),
        (dict(stages=(dict(objective=dict(name="sigmoid", max_scale=1.0)),)),
         r"sigmoid\(\) has no setting 'max_scale'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    settings.complete(changed(**changes))


@pytest.mark.parametrize(
    "missing", ["steps", "batch_size", "source", "objective", "optimizer"]
)
def test_what_no_default_replaces_is_asked_for(missing):
  config = {k: v for k, v in LEAST.items() if k != missing}
  with pytest.raises(ValueError, match=f"needs the setting {missing!r}"):
    settings.complete(config)


def test_a_group_without_a_name_is_told():
  with pytest.raises(ValueError, match="source has no 'name'"):
    settings.complete({**LEAST, "source": dict(split="train")})


def test_changes_go_over_what_is_there_and_other_names_replace_it():
  base = dict(
      steps=1, objective=dict(name="softmax", scale=5.0, smoothing=0.1),
      mesh=dict(data=-1, model=1), text=None,
  )
  found = settings.changed(base, dict(
      steps=2, objective=dict(smoothing=0.2), mesh=dict(model=2),
      text=dict(name="text_transformer"),
  ))
  assert found == dict(
      steps=2, objective=dict(name="softmax", scale=5.0, smoothing=0.2),
      mesh=dict(data=-1, model=2), text=dict(name="text_transformer"),
  )
  other = settings.changed(base, dict(objective=dict(name="sigmoid")))
  assert other["objective"] == dict(name="sigmoid")
  assert base["objective"]["smoothing"] == 0.1


def test_an_override_of_the_command_line_reaches_the_complete_one():
  path = ROOT / "configs" / "digits.py"
  spec = importlib.util.spec_from_file_location("digits", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.lock()
  # What --config.optimizer.peak=3e-4 does.
  config.optimizer.peak = 3e-4
  assert settings.complete(config.to_dict())["optimizer"]["peak"] == 3e-4
  with pytest.raises(AttributeError):
    config.optimizer.paek = 3e-4


def test_every_setting_of_an_experiment_is_explained():
  for table in (
      manual.experiment, manual.vocabulary, manual.recording,
      manual.evaluation, manual.initial, manual.stage,
  ):
    for name in inspect.signature(table).parameters:
      assert re.search(rf"^ +{name}: ", table.__doc__, re.MULTILINE), name


def test_looks_are_completed_by_their_augmentation():
  full = settings.complete(changed(
      looks=dict(pair=dict(name="crop", size=8, jitter=[0.4, 0.4, 0.2, 0.1])),
      views=dict(pair="image", image="image", text="text")))
  assert full["looks"]["pair"]["jitter"] == (0.4, 0.4, 0.2, 0.1)
  assert full["looks"]["pair"]["copies"] == 1
  assert settings.complete(full) == full
  named = settings.complete(changed(looks=dict(image=dict(name="crop", size=8))))
  assert named["looks"]["image"]["scale"] == (0.08, 1.0)


@pytest.mark.parametrize(("looks", "said"), [
    (dict(pair=dict(name="crop", size=8)), "no tower would see an image"),
    (dict(image=dict(name="crop", size=0)), "looks.image: size is 0"),
    (dict(image=dict(name="crop")), "size"),
    (dict(image=dict(name="crop", size=8, blurr=0.5)), "did you mean 'blur'"),
    (dict(image=dict(name="croop", size=8)), "looks.image.name"),
    (dict(image="crop"), "takes the settings of an augmentation"),
])
def test_looks_that_cannot_be_are_refused(looks, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    settings.complete(changed(looks=looks))


def test_looks_of_stored_embeddings_are_refused():
  with pytest.raises(ValueError, match="leave one out"):
    settings.complete(changed(
        looks=dict(image=dict(name="crop", size=8)), stored=("image",)))


def test_changes_on_the_device_are_checked_before_a_device_is_used():
  full = settings.complete(changed(photometric=dict(image=dict(gray=0.2))))
  assert full["photometric"]["image"]["jitter"] == (0.0, 0.0, 0.0)
  assert settings.complete(full) == full
  for given, said in (
      (dict(gray=1.2), "photometric.image: gray is 1.2"),
      (dict(jitter=(0.4, -0.1, 0.2)), "strengths of at least 0"),
      (dict(grey=0.2), "did you mean 'gray'"),
      (0.2, "it takes settings"),
  ):
    with pytest.raises(ValueError, match=re.escape(said)):
      settings.complete(changed(photometric=dict(image=given)))


def test_looks_need_the_size_that_evaluations_see():
  look = dict(image=dict(name="crop", size=8))
  evals = dict(x=dict(name="zeroshot", source=dict(name="digits")))
  with pytest.raises(ValueError, match=r"augment\.size is not set"):
    settings.complete(changed(looks=look, evals=evals))
  settings.complete(changed(looks=look, evals=evals, augment=dict(size=8)))


def test_a_stage_replaces_the_sources_of_a_mixture_and_keeps_the_rest():
  one, two = dict(name="digits"), dict(name="shapes")
  base = dict(source=dict(
      name="mixture", sources=dict(a=one, b=two), weights=dict(a=3, b=1),
      window=4))
  found = settings.changed(base, dict(source=dict(
      sources=dict(b=two), weights=dict(b=1))))
  assert found["source"] == dict(
      name="mixture", sources=dict(b=two), weights=dict(b=1), window=4)
  found = settings.changed(
      dict(evals=dict(x=dict(name="knn", source=dict(name="tar", text=dict(a=1))))),
      dict(evals=dict(x=dict(source=dict(text=dict(b=1))))))
  assert found["evals"]["x"]["source"] == dict(name="tar", text=dict(b=1))
