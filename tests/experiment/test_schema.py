"""The signature is the schema: what does not fit it is refused in words."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from basic import gradient, optim, types
from basic.experiment import schema
from basic.objectives import sigmoid


def factory(
    *,
    scale: float,
    count: int = 3,
    pool: Literal["mean", "token"] = "mean",
    label: str | None = None,
    sizes: tuple[int, ...] = (),
    rates: Sequence[Sequence[Any]] = (),
    chunks: int | Mapping[str, int] = 1,
    flag: bool = False,
    act: Callable[[Any], Any] | None = None,
) -> None:
  """A factory of nothing, for its signature."""


def complete(given=(), **settings):
  return schema.complete("part", factory, {"scale": 1.0, **settings}, given)


def test_defaults_are_filled_in_by_the_order_of_the_signature():
  assert list(complete(count=5).items()) == [
      ("scale", 1.0), ("count", 5), ("pool", "mean"), ("label", None),
      ("sizes", ()), ("rates", ()), ("chunks", 1), ("flag", False),
      ("act", None),
  ]


def test_a_complete_one_is_complete():
  full = complete(sizes=[1, 2], rates=[["a/.*", 0.5]])
  assert full["sizes"] == (1, 2)
  assert schema.complete("part", factory, full) == full


def test_what_the_caller_gives_may_be_left_out_or_set():
  given = ("count",)
  assert "count" not in complete(given)
  assert complete(given, count=4)["count"] == 4


def test_the_name_is_no_setting():
  assert "name" not in complete(name="factory")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(conut=1), r"part: factory\(\) has no setting 'conut'; did you "
                        r"mean 'count'\? It takes \['act', 'chunks'"),
        (dict(zzz=1), r"no setting 'zzz'\. It takes \['act'"),
        (dict(scale="high"), r"part.scale is 'high' \(str\); it takes float"),
        (dict(scale=True), r"part.scale is True \(bool\); it takes float"),
        (dict(count=1.5), r"part.count is 1.5 \(float\); it takes int"),
        (dict(count=True), r"it takes int"),
        (dict(pool="max"), r"part.pool is 'max' .* Literal\['mean', 'token'\]"),
        (dict(label=3), r"part.label is 3 \(int\); it takes str \| None"),
        (dict(sizes=(1, "a")), r"part.sizes is \(1, 'a'\)"),
        (dict(sizes=4), r"part.sizes is 4 \(int\)"),
        (dict(chunks="two"), r"part.chunks is 'two'"),
        (dict(chunks={3: 1}), r"part.chunks is \{3: 1\} \(dict\)"),
        (dict(chunks={"a": "b"}), r"part.chunks is \{'a': 'b'\}"),
        (dict(flag=1), r"part.flag is 1 \(int\); it takes bool"),
        (dict(scale=None), r"part.scale is None"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    complete(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(scale=2), dict(label="x"), dict(label=None), dict(chunks=4),
        dict(chunks={"image": 4}), dict(sizes=()), dict(pool="token"),
        dict(rates=[("a", 1)]), dict(act=len),
    ],
)
def test_what_fits_is_taken(settings):
  (name, value), = settings.items()
  found = complete(**settings)[name]
  assert found == (tuple(value) if isinstance(value, list) else value)


def test_whole_numbers_become_floats_where_floats_are_taken():
  assert type(complete(scale=2)["scale"]) is float


def test_a_missing_setting_is_named():
  with pytest.raises(ValueError, match=r"part: factory\(\) needs .* 'scale'"):
    schema.complete("part", factory, {})


def test_plugins_are_the_files_that_are_there():
  assert {"sigmoid", "softmax"} <= set(schema.plugins("objectives"))
  found = schema.plugins("encoders")
  assert {"vit", "resnet", "text_transformer"} <= set(found)
  assert not [name for name in found if name.startswith("_")]


def test_a_plugin_is_the_function_of_its_file():
  assert schema.plugin("objectives", "sigmoid") is sigmoid.sigmoid


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sigmiod", r"no 'sigmiod' in basic/objectives; did you mean "
                    r"'sigmoid'\? It has \[.*'sigmoid'.*'softmax'"),
        ("zzz", r"no 'zzz' in basic/objectives\. It has \["),
        ("../build", "no '../build'"),
        ("__init__", "no '__init__'"),
    ],
)
def test_an_unknown_plugin_is_told_which_there_are(name, sentence):
  with pytest.raises(ValueError, match=sentence):
    schema.plugin("objectives", name)


def test_a_member_is_known_by_what_it_returns():
  assert schema.member(gradient, "cached", types.Gradient) is gradient.cached
  assert schema.member(optim, "adamw", optim.Optimizer) is optim.adamw
  for name in ("row_keys", "_keys", "jax"):  # other functions, and no others'
    with pytest.raises(ValueError, match=r"It has \['cached', 'direct'"):
      schema.member(gradient, name, types.Gradient)
  with pytest.raises(ValueError, match="did you mean 'adamw'"):
    schema.member(optim, "adam", optim.Optimizer)


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package of somebody else, with sources."""
  (tmp_path / "theirs").mkdir()
  (tmp_path / "theirs" / "__init__.py").write_text("")
  (tmp_path / "theirs" / "data.py").write_text(
      "def birds(*, length: int, wings: int = 2):\n"
      "  return [{'id': i, 'wings': wings} for i in range(length)]\n"
      "def positional(length):\n"
      "  return [{}] * length\n"
      "names = 3\n"
      "def free(*, folder, times=1):\n"
      "  return [{'folder': folder}] * times\n"
      "def lost(*, n: 'Nowhere' = 3):\n"
      "  return [n]\n"
  )
  (tmp_path / "theirs" / "broken.py").write_text("import no_such_module\n")
  monkeypatch.syspath_prepend(tmp_path)
  yield
  for name in [n for n in sys.modules if n.split(".")[0] == "theirs"]:
    del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_a_function_of_another_package_is_a_plugin():
  settings = {"name": "theirs.data:birds", "length": 3}
  function = schema.plugin("sources", settings["name"])
  full = {"name": settings["name"], **schema.complete("source", function, settings)}
  assert full == {**settings, "wings": 2}
  assert schema.make("sources", full)[2] == {"id": 2, "wings": 2}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "sentence"), [
    ("nowhere.data:birds", "cannot be imported"),
    ("theirs.broken:birds", "no_such_module"),
    ("theirs.data:brids", "did you mean 'birds'"),
    ("theirs.data:names", "no function 'names'"),
    ("theirs.data:positional", r"takes \['length'\] by position"),
    (":birds", "cannot be imported"),
    ("theirs.data:", "no function ''"),
    (".data:birds", "'.data', which cannot be imported: a module is named as"),
    ("theirs..data:birds", "a module is named as"),
    (":", "a module is named as"),
])
def test_a_function_that_cannot_be_used_says_why(name, sentence):
  with pytest.raises(ValueError, match=sentence):
    schema.plugin("sources", name)


@pytest.mark.usefixtures("package")
def test_an_argument_without_an_annotation_takes_anything():
  settings = {"name": "theirs.data:free", "folder": {"a": 1}}
  function = schema.plugin("sources", settings["name"])
  full = {"name": settings["name"], **schema.complete("source", function, settings)}
  assert full == {**settings, "times": 1}
  assert schema.make("sources", full) == [{"folder": {"a": 1}}]


@pytest.mark.usefixtures("package")
def test_an_annotation_that_does_not_resolve_is_said():
  function = schema.plugin("sources", "theirs.data:lost")
  with pytest.raises(ValueError, match=r"theirs.data:lost .*'Nowhere' is not def"):
    schema.complete("source", function, {"n": 3})


def joined(
    *, first: types.Source, others: Mapping[str, types.Source], times: int = 1
) -> types.Source:
  """A source of sources."""
  return [first, others, times]


def test_a_source_of_sources_is_made_from_the_settings_of_each(monkeypatch):
  plugin = schema.plugin
  monkeypatch.setattr(schema, "plugin", lambda folder, name: (
      joined if name == "joined" else plugin(folder, name)
  ))
  shapes = {"name": "shapes", "length": 5}
  settings = {"first": shapes, "others": {"a": shapes, "b": shapes}}
  full = schema.complete("source", joined, settings)
  assert full["first"]["canvas"] == 48 and full["others"]["b"]["length"] == 5
  first, others, _ = schema.make("sources", {"name": "joined", **full})
  assert len(first) == 5 and set(others) == {"a", "b"} and len(others["b"]) == 5


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"first": 3}, r"source\.first is 3; it takes the settings of a source"),
    ({"first": {"name": 3}}, "it takes the settings of a source"),
    ({"first": {"name": "shape"}}, r"source\.first\.name: .*did you mean 'shapes'"),
    ({"first": {"name": "shapes", "lenght": 3}}, r"source\.first: .*'lenght'"),
    ({"others": {"a": {"name": "shapes", "length": "x"}}}, r"others\.a\.length"),
])
def test_wrong_settings_of_an_inner_source_have_their_path(settings, sentence):
  good = {"first": {"name": "shapes"}, "others": {}}
  with pytest.raises(ValueError, match=sentence):
    schema.complete("source", joined, good | settings)
