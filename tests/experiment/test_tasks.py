"""The tasks that come with the library, checked against TFDS's own definitions."""

import collections
import configparser
import json
import pathlib
import tomllib

import pytest
import tensorflow_datasets

from basic.data import class_prompts
from basic.experiment import name_lists, tasks

NAMES = tasks.names()
IMAGENETS = (
    "imagenet", "imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch",
)


def read(name):
  return tasks.read(name, data_dir="/data")


def of_tfds(settings):
  """What TFDS says of a data set: its feature of labels, and the splits."""
  builder = tensorflow_datasets.builder(settings["dataset"], data_dir="/nowhere")
  feature = builder.info.features[settings["label"]]
  several = isinstance(feature, tensorflow_datasets.features.Sequence)
  return feature.feature if several else feature, several


@pytest.mark.parametrize("name", NAMES)
def test_a_task_says_what_it_is_and_its_settings_are_valid(name):
  task = read(name)
  assert task.about.endswith(".") and task.metrics
  templates = task.settings.get("templates", ("{}",))
  assert len(set(templates)) == len(templates)
  assert all(template.count("{}") == 1 for template in templates)
  others = name not in IMAGENETS and task.settings["source"]["name"] != "tfds"
  assert bool(task.needs) == others


@pytest.mark.parametrize("name", [
    name for name in NAMES if read(name).settings["source"]["name"] == "tfds"
    and read(name).settings["name"] == "zeroshot"
])
def test_tfds_has_the_data_with_these_classes(name):
  settings = read(name).settings
  feature, several = of_tfds(settings["source"])
  assert several == (settings["source"]["most_labels"] is not None)
  theirs = tuple(each.replace("_", " ") for each in feature.names)
  classes = settings.get("classes", theirs)
  assert len(classes) == feature.num_classes
  # Raises for a class without a name.
  chosen = class_prompts.chosen(theirs, settings["subset"])
  names = settings["names"]
  if names is not None:
    said = [names[theirs[c]] for c in chosen]
  else:
    said = [classes[c] for c in chosen]
  assert len({each.casefold() for each in said}) == len(said)


def test_the_200_classes_are_those_of_imagenet_and_not_the_same():
  subsets = [set(read(f"imagenet_{x}").settings["subset"]) for x in "ar"]
  every = set(read("imagenet").settings["names"])
  assert [len(each) for each in subsets] == [200, 200]
  assert len(every) == 1000 and all(each < every for each in subsets)
  assert subsets[0] != subsets[1]
  # In both: bald eagle, scorpion. In R only: great white shark. In A only: bubble.
  assert {"n01614925", "n01770393"} <= subsets[0] & subsets[1]
  assert "n01484850" in subsets[1] - subsets[0]
  assert "n09229709" in subsets[0] - subsets[1]


def test_names_of_imagenet_are_those_of_its_numbers():
  names = read("imagenet").settings["names"]
  assert (names["n01440764"], names["n02123045"]) == ("tench", "tabby")
  assert (names["n02012849"], names["n03126707"]) == (
      "crane bird", "construction crane",
  )
  assert {read(name).settings["templates"] for name in IMAGENETS} == {
      read("imagenet").settings["templates"]
  }


def test_suites_and_averages_are_of_tasks_that_there_are():
  found = tasks.suites()
  for members in (*found["suites"].values(), *found["averages"].values()):
    assert set(members) <= set(NAMES)
    assert len(set(members)) == len(members)
  assert set(tasks.of_suite("all")) == set(NAMES)
  assert tasks.of_suite("retrieval") == ["coco", "flickr30k"]
  counts = {
      int(number): len(members)
      for title, members in found["averages"].items()
      for number in title.split() if number.isdigit()
  }
  assert counts == {6: 6, 5: 5, 17: 17, 12: 12}
  assert len(tasks.of_suite("paper")) == 6 + 17 - 1  # ImageNet is in both
  with pytest.raises(ValueError, match=r"'papers'; there are \['all'"):
    tasks.of_suite("papers")


def test_everything_beside_the_tasks_is_installed():
  setup = configparser.ConfigParser()
  setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
  patterns = setup["options.package_data"]["basic.evals"].split()
  folder = tasks.FOLDER.parent
  installed = {path for pattern in patterns for path in folder.glob(pattern)}
  kinds = (".toml", ".txt", ".tsv")
  there = {path for path in folder.rglob("*") if path.suffix in kinds}
  assert there and there <= installed


def test_every_file_beside_the_tasks_is_of_one():
  named = collections.Counter()
  for path in tasks.FOLDER.glob("*.toml"):
    found = tomllib.loads(path.read_text())
    named.update(x for key, x in found.items() if key.endswith("_file"))
  others = {path.name for path in tasks.FOLDER.iterdir() if path.suffix != ".toml"}
  assert others == set(named)


OWN = """
about = "Mine."
metric = ["mean_per_class", "@5"]
name = "zeroshot"
classnames_file = "names.tsv"
limit = 10
[source]
name = "folder"
path = "{data_dir}/mine"
"""


@pytest.fixture
def own(tmp_path):
  (tmp_path / "names.tsv").write_text("# a comment\nn1\ta tench\n\nn2\ta shark\n")
  path = tmp_path / "mine.toml"
  path.write_text(OWN)
  return path


def test_a_file_of_ones_own_is_a_task(own):
  found = tasks.read(own, data_dir="/data", changes={"limit": None, "batch_size": 7})
  assert (found.name, found.metrics) == ("mine", ("/per_class@1", "@5"))
  assert found.settings["names"] == {"n1": "a tench", "n2": "a shark"}
  assert found.settings["source"]["path"] == "/data/mine"
  assert (found.settings["limit"], found.settings["batch_size"]) == (10, 7)


def test_a_task_may_read_what_another_reads(tmp_path):
  path = tmp_path / "again.toml"
  path.write_text(
      'like = "resisc45"\nname = "zeroshot"\ntemplates = ["a {}"]\n'
      '[source]\nsplit = "train[:80%]"\n'
  )
  found, first = tasks.read(path).settings, read("resisc45").settings
  assert found["source"] == {
      **first["source"], "split": "train[:80%]", "data_dir": None
  }
  assert found["templates"] == ("a {}",)
  path.write_text('like = "objectnet"\nname = "zeroshot"\n')
  assert tasks.read(path, data_dir="/d").needs == read("objectnet").needs
  path.write_text('like = "object"\n')
  with pytest.raises(FileNotFoundError, match="no task 'object'"):
    tasks.read(path)


def test_tfds_is_read_where_data_dir_says_or_where_the_task_does():
  assert read("cifar10").settings["source"]["data_dir"] == "/data"
  assert tasks.read("cifar10").settings["source"]["data_dir"] is None


def test_data_that_lies_nowhere_is_no_error_of_the_task(own):
  with pytest.raises(tasks.NoData, match="no --data_dir says where"):
    tasks.read(own)
  with pytest.raises(tasks.NoData, match="TFDS does not have ObjectNet"):
    tasks.read("objectnet")


@pytest.mark.parametrize("before, after, sentence", [
    ('name = "zeroshot"', 'name = "zerosho"', "no 'zerosho'"),
    ("limit = 10", "limits = 10", r"mine\.toml: .*no setting 'limits'"),
    ("limit = 10", "limit = ", "it is not TOML"),
    ('"folder"\npath', '"folder"\npaths', "'paths'; did you mean 'path'"),
    ("names.tsv", "names.txt", "names.txt"),
])
def test_a_wrong_file_gets_a_sentence(own, before, after, sentence):
  own.write_text(OWN.replace(before, after))
  with pytest.raises((ValueError, FileNotFoundError), match=sentence):
    tasks.read(own, data_dir="/data")


def test_a_task_that_does_not_exist_lists_those_that_do():
  with pytest.raises(FileNotFoundError, match=r"no task 'imagnet'.*'imagenet'"):
    tasks.read("imagnet")


def test_lists_in_the_layout_of_clip_benchmark_take_precedence(tmp_path):
  names, templates = tmp_path / "names.json", tmp_path / "templates.json"
  names.write_text(json.dumps({"imagenet1k": ["tench"] * 1000, "pets": ["a"] * 37}))
  templates.write_text(json.dumps({"vtab/cifar10": ["a photo of a {c}.", "{c}"]}))
  given = {"classnames": names, "templates": templates}
  found = tasks.read("imagenet_v2", **given).settings
  assert found["classes"] == ("tench",) * 1000 and found["names"] is None
  assert found["templates"] == tasks.read("imagenet").settings["templates"]
  found = tasks.read("cifar10", **given).settings
  assert found["templates"] == ("a photo of a {}.", "{}")
  assert "classes" not in found


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_a_list_of_names_keeps_the_200_classes_of_1000(tmp_path, name):
  feature, _ = of_tfds(read(name).settings["source"])
  given = [f"name of {number}" for number in feature.names]
  (tmp_path / "names.json").write_text(json.dumps({"imagenet1k": given}))
  own = read(name).settings["subset"]
  settings = tasks.read(name, classnames=tmp_path / "names.json").settings
  found, said = class_prompts.candidates(
      classes=settings["classes"], subset=settings["subset"],
      names=settings["names"],
  )
  assert found == class_prompts.chosen(feature.names, own) and len(found) == 200
  assert said == tuple(f"name of {number}" for number in own)


def test_a_subset_of_the_given_names_stays_as_it_is(own, tmp_path):
  own.write_text(OWN.replace("limit = 10", 'subset = ["b"]'))
  (tmp_path / "list.txt").write_text("a\nb\n")
  found = tasks.read(own, data_dir="/", classnames=tmp_path / "list.txt").settings
  assert (found["classes"], found["subset"]) == (("a", "b"), ("b",))


@pytest.mark.parametrize("file, content, expected", [
    ("a.txt", "# none\none\n\ntwo {c}\n", ("one", "two {}")),
    ("a.json", '["one", "two {c}"]', ("one", "two {}")),
    ("a.json", '{"x": ["no"], "pets": ["yes"]}', ("yes",)),
    ("a.json", '{"x": ["no"]}', None),
    ("a.json", '{"n1": "tench"}', {"n1": "tench"}),
    ("a.tsv", "n1\ttench\n", {"n1": "tench"}),
])
def test_lists_are_read_as_they_come(tmp_path, file, content, expected):
  (tmp_path / file).write_text(content)
  assert name_lists.read(tmp_path / file, ("mine", "pets")) == expected


@pytest.mark.parametrize("file, content, sentence", [
    ("a.json", "{", "cannot be read"),
    ("a.json", '{"pets": {"cat": ["a cat"]}, "x": []}', "Prompts of their own"),
    ("a.json", "[1]", "list of strings"),
    ("a.json", "3", "has a int"),
    ("a.tsv", "n1 tench\n", "two columns"),
])
def test_other_content_gets_a_sentence(tmp_path, file, content, sentence):
  (tmp_path / file).write_text(content)
  with pytest.raises(ValueError, match=sentence):
    name_lists.read(tmp_path / file, ("pets",))


def test_a_mapping_of_classes_is_no_list_of_templates(tmp_path):
  (tmp_path / "a.tsv").write_text("n1\ttench\n")
  with pytest.raises(ValueError, match="templates takes a list"):
    tasks.read("cifar10", templates=tmp_path / "a.tsv")
