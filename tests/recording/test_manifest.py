"""A run's folder belongs to one configuration, and holds no secret."""

import json

import pytest

from basic.recording import manifest, redact

CONFIG = {
    "seed": 0,
    "text": {"name": "text_transformer", "depth": 12},
    "scale": float("inf"),
    "evals": [{"every": 5}, {"every": 10}],
}


def load(path):
  return json.loads(path.read_text())


def test_begin_writes_the_whole_configuration_and_what_it_runs_on(tmp_path):
  manifest.begin(tmp_path / "run", CONFIG, command=["train", "--x", "a b"])
  config = load(tmp_path / "run" / "config.json")
  assert config == {**CONFIG, "scale": "inf"}
  run = load(tmp_path / "run" / "run.json")
  assert run["command"] == "train --x 'a b'"
  assert run["backend"] == "cpu"
  assert run["device_count"] == 8
  assert run["process_count"] == 1
  assert set(run["versions"]) == {"python", *manifest.LIBRARIES}
  assert all(run["versions"].values())
  assert run["device_kind"]
  assert len(run["started"]) == 1


def test_every_start_is_noted_and_changed_facts_are_kept(tmp_path):
  manifest.begin(tmp_path, CONFIG, command=["first"])
  manifest.begin(tmp_path, CONFIG, command=["second"])
  run = load(tmp_path / "run.json")
  assert len(run["started"]) == 2
  assert run["command"] == "second"
  (earlier,) = run["earlier"]
  assert earlier["command"] == "first"
  assert set(earlier) == {"until", "command"}


@pytest.mark.parametrize("change, named", [
    ({"seed": 1}, "seed: 0 -> 1"),
    ({"text": {"name": "text_transformer", "depth": 6}}, "text/depth: 12 -> 6"),
    ({"evals": [{"every": 5}, {"every": 7}]}, "evals/1/every: 10 -> 7"),
    ({"extra": "new"}, 'extra: (absent) -> "new"'),
    ({"seed": 0.0}, "seed: 0 -> 0.0"),
    ({"seed": False}, "seed: 0 -> false"),
])
def test_other_settings_are_named_and_nothing_is_overwritten(
    tmp_path, change, named
):
  manifest.begin(tmp_path, CONFIG, command=["train"])
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(ValueError, match="--workdir") as error:
    manifest.begin(tmp_path, {**CONFIG, **change}, command=["train"])
  assert named in str(error.value)
  assert str(error.value).count("->") == 2  # the legend, and one setting
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_setting_that_is_gone_is_named(tmp_path):
  manifest.begin(tmp_path, {"a": 1, "b": 2}, command=[])
  with pytest.raises(ValueError, match=r"b: 2 -> \(absent\)"):
    manifest.begin(tmp_path, {"a": 1}, command=[])


def test_many_differences_are_counted_rather_than_listed(tmp_path):
  manifest.begin(tmp_path, {str(n): 0 for n in range(30)}, command=[])
  with pytest.raises(ValueError, match="and 10 more"):
    manifest.begin(tmp_path, {str(n): 1 for n in range(30)}, command=[])


def test_foreign_files_are_left_alone(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  manifest.begin(tmp_path, CONFIG, command=["train"])
  assert (tmp_path / "notes.txt").read_text() == "mine"
  names = {p.name for p in tmp_path.iterdir()}
  assert names == {"notes.txt", "config.json", "run.json"}


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
  (tmp_path / "config.json").write_text('{"seed": ')
  with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
    manifest.begin(tmp_path, CONFIG, command=["train"])
  assert (tmp_path / "config.json").read_text() == '{"seed": '


def test_a_setting_that_is_no_plain_data_is_refused(tmp_path):
  with pytest.raises(TypeError, match=r"text/depth is a set"):
    manifest.begin(tmp_path, {"text": {"depth": {1}}}, command=[])
  assert not list(tmp_path.iterdir())


def test_tuples_are_the_lists_that_json_gives_back(tmp_path):
  manifest.begin(tmp_path, {"betas": (0.9, 0.99)}, command=[])
  manifest.begin(tmp_path, {"betas": (0.9, 0.99)}, command=[])
  assert load(tmp_path / "config.json") == {"betas": [0.9, 0.99]}


def test_secrets_are_not_written_and_do_not_make_another_run(tmp_path):
  def config(secret):
    return {
        "wandb": {"project": "clip", "api_key": secret},
        "source": {"url": f"https://me:{secret}@host/x?token=a&sig={secret}"},
    }

  first, second = "hunter2hunter2", "swordfish99swordfish"
  for secret in (first, second):
    manifest.begin(
        tmp_path, config(secret),
        command=["train", f"--config.wandb.api_key={secret}", "--password",
                 secret, "--config", "configs/digits.py"],
    )
  for path in tmp_path.iterdir():
    assert first not in path.read_text()
    assert second not in path.read_text()
  written = load(tmp_path / "config.json")
  assert written["wandb"] == {"project": "clip", "api_key": redact.HIDDEN}
  assert "configs/digits.py" in load(tmp_path / "run.json")["command"]


@pytest.mark.parametrize("name, found", [
    ("api_key", "abc"),
    ("password", 1234),
    ("WANDB_API_KEY", "abc"),
    ("client-secret", "abc"),
    ("hf_token", "abc"),
    ("token", "a1b2c3d4e5f6a7b8c9"),
    ("note", "hf_abcdefghijklmnopqrst"),
])
def test_secrets_are_known_by_name_or_shape(name, found):
  assert redact.value(name, found) == redact.HIDDEN


@pytest.mark.parametrize("name, found", [
    ("image_key", "image"),
    ("key", "caption"),
    ("pad_token", "<pad>"),
    ("tokens", 77),
    ("tokenizer", "sentencepiece"),
    ("api_key", None),
    ("api_key", ""),
    ("url", "https://host/data?split=train"),
    ("design", "sigmoid"),
])
def test_settings_that_only_sound_secret_are_kept(name, found):
  assert redact.value(name, found) == found


def test_lists_are_searched():
  found = redact.value("tokens", [{"api_key": "abc"}, "https://u:p@h/"])
  assert found == [{"api_key": redact.HIDDEN}, f"https://{redact.HIDDEN}@h/"]


@pytest.mark.parametrize("name", ["config.json", "run.json"])
@pytest.mark.parametrize("content", [
    b"[]", b"null", b"[1]", b"3", b'"x"', b"\xff\xfe{}", b"{", b"[" * 100_000,
])
def test_a_file_that_holds_no_object_is_refused_by_its_name(
    tmp_path, name, content
):
  folder = tmp_path / "run"
  manifest.begin(folder, CONFIG, command=["train"])
  (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"run/{name} .*Restore the file") as told:
    manifest.check(folder, CONFIG)
  assert len(str(told.value)) < 1_000
  assert (folder / name).read_bytes() == content


def test_fresh_may_be_added_to_the_stages_of_a_run_that_began_without(tmp_path):
  stages = [{"steps": 2}, {"steps": 3}]
  manifest.begin(tmp_path, {"stages": stages}, command=["train"])
  stages[1]["fresh"] = ["image/.*"]
  manifest.check(tmp_path, {"stages": stages})
  stages[1]["steps"] = 4
  with pytest.raises(ValueError, match="other settings"):
    manifest.check(tmp_path, {"stages": stages})


def test_how_many_threads_read_may_change_in_a_run_and_in_its_stages():
  before = {"loader": {"threads": 8, "shuffle": None}, "stages": [{}, {"steps": 2}]}
  for now, refused in (
      ({"loader": {"threads": 2, "shuffle": None}, "stages": before["stages"]}, 0),
      ({**before, "stages": [{}, {"steps": 2, "loader": {"workers": 2}}]}, 0),
      ({**before, "stages": [{"loader": {"window": 2}}, {"steps": 2}]}, 1),
      ({**before, "loader": {"threads": 8, "shuffle": "shards"}}, 1),
      ({**before, "unreadable": {"most": 0.5}}, 0),
  ):
    found = [
        path for path, *_ in manifest._differences("", before, now)
        if not manifest._MAY_CHANGE.fullmatch(path)
    ]
    assert len(found) == refused, found
