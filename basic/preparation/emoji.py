"""Makes tar shards of real pictures with real words: emoji of six vendors."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from basic import files, types
from basic.preparation import (
    _emoji_licences,
    _emoji_packages,
    _emoji_pictures,
    _emoji_shards,
    _emoji_words,
)

_ABOUT = "about.json"


def emoji(
    *,
    out: str,
    size: int = 64,
    languages: str = "en,de,fr,es,it,pt",
    withheld: str | None = "de",
    unseen: str | None = "nl",
    npm: str = "npm",
) -> types.Counts:
  """Makes tar shards of real pictures with real words: emoji of six vendors.

  The pictures come as packages of the npm registry, at pinned versions, through
  the `npm` client; names and keywords are those of Unicode's CLDR. Drawings are
  rendered by resvg (pip install resvg-py). About a minute and 80 MB.

  Trained on are the pictures of five vendors: train-*.tar, and tones-*.tar with
  the skin tones. One concept in six is never trained on, in no skin tone, gender
  or direction: concepts-*.tar has it in the trained styles, both-*.tar in a style
  that is never trained on. style-*.tar has the trained concepts in that style;
  words-*.tar those of them whose words in one language, `withheld`, are in no
  training caption. Flags are trained on, and not judged.

  A picture is KEY.png, its English name KEY.txt, its class KEY.cls; KEY.json has
  its "names" and "keywords" by language, "concept" and "vendor".
  classes.LANGUAGE.txt and concepts.LANGUAGE.txt name the classes: all concepts,
  and those held out. LICENSES.md has the terms under which each vendor's pictures
  may be used, about.json what was made.

  Args:
    out: the new folder. One that this command completed with the same settings
      is left as it is.
    size: height and width of the pictures, in pixels.
    languages: of the training captions, separated by commas, English first.
    withheld: the one of them in which one concept in six has no trained words.
    unseen: a language that has class names and no training caption.
    npm: the program: its name, or its path.

  Returns:
    The number of pictures of each split, of concepts, and of training captions.

  Raises:
    ValueError: if a setting is wrong, `out` has other content, or a package is
      not the one that was pinned.
    FileNotFoundError: if npm is not installed, or a package is gone.
    OSError: if npm cannot reach its registry, or files cannot be written.
    ImportError: if resvg-py is not installed.
  """
  words = _words(languages, withheld, unseen)
  if not 8 <= size <= 512:
    raise ValueError(f"size is {size}; expected 8 to 512 pixels.")
  folder = files.checked("--out", out)
  asked = {"size": size, **words._asdict(), "made_by": _version()}
  if (done := _completed(folder, asked)) is not None:
    return done
  _emoji_pictures.renderer()  # Said before anything is fetched.
  partial = folder.with_name(f".{folder.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
  counts = _make(partial, size, words, npm, asked)
  folder.parent.mkdir(parents=True, exist_ok=True)
  os.replace(partial, folder)
  return counts


def _words(
    languages: str, withheld: str | None, unseen: str | None
) -> _emoji_shards.Words:
  trained = tuple(each.strip() for each in languages.split(",") if each.strip())
  if trained[:1] != ("en",) or len(set(trained)) < len(trained):
    raise ValueError(
        f"languages is {languages!r}; expected names such as 'en,de', each once "
        "and English first: pictures are known by English names."
    )
  if withheld is not None and withheld not in trained[1:]:
    raise ValueError(
        f"withheld is {withheld!r}; expected a language after the first of "
        f"{languages!r}, or None."
    )
  if unseen in trained:
    raise ValueError(f"unseen is {unseen!r}, which is among languages, {languages!r}.")
  return _emoji_shards.Words(trained, withheld, unseen)


def _version() -> str:
  """Changes with the packages."""
  every = (_emoji_words.WORDS, *(v.package for v in _emoji_pictures.VENDORS))
  return hashlib.sha256(repr(every).encode()).hexdigest()[:16]


def _completed(
    folder: pathlib.Path, asked: Mapping[str, Any]
) -> types.Counts | None:
  """The counts of a folder that was made as asked; None if it is still to make."""
  about = folder / _ABOUT
  if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
    return None
  if not about.is_file():
    raise ValueError(
        f"{folder} is there, and is no folder of emoji; give --out another name."
    )
  found = json.loads(about.read_bytes())
  if found["settings"] != json.loads(json.dumps(asked)):
    raise ValueError(
        f"{folder} was made with other settings, {found['settings']}; remove it, "
        "or give --out another name."
    )
  changed = [
      name for name, size in found["files"].items()
      if not (folder / name).is_file() or (folder / name).stat().st_size != size
  ]
  if changed:
    raise ValueError(
        f"{folder} lacks {changed[0]} as it was made; remove the folder, and start "
        "the same command again."
    )
  return found["counts"]


def _make(
    folder: pathlib.Path,
    size: int,
    words: _emoji_shards.Words,
    npm: str,
    asked: Mapping[str, Any],
) -> types.Counts:
  """Makes all files of the data set in a folder."""
  wordy = _emoji_packages.content(_emoji_words.WORDS, npm, _emoji_words.wanted)
  vendors = {
      vendor: _emoji_packages.content(vendor.package, npm, _emoji_pictures.wanted)
      for vendor in _emoji_pictures.VENDORS
  }
  concepts = _emoji_words.concepts(wordy, words.languages)
  older_names = _emoji_words.unicode_names(wordy)
  pictures = [
      picture for vendor, content in vendors.items() for picture in
      _emoji_pictures.pictures(vendor, content, concepts, older_names)
  ]
  splits = _emoji_shards.examples(
      pictures, concepts, _emoji_pictures.UNSEEN.name, words
  )
  for split, examples in splits.items():
    _emoji_shards.write(folder, split, examples, size)
  for name, content in _emoji_shards.class_files(concepts, words).items():
    files.replace(folder / name, content)
  files.replace(
      folder / "LICENSES.md", _emoji_licences.text(vendors, wordy).encode()
  )
  counts = _counts(splits, concepts)
  files.replace(folder / _ABOUT, _emoji_shards.as_json({
      "settings": asked,
      "packages": [
          content.package._asdict() for content in (wordy, *vendors.values())
      ],
      "splits": _emoji_shards.SPLITS, "counts": counts,
      "files": {
          path.name: path.stat().st_size for path in sorted(folder.iterdir())
      },
  }))
  return counts


def _counts(splits, concepts) -> dict[str, int]:
  trained = [e for name in _emoji_shards.TRAINED for e in splits[name]]
  captions = {
      caption for example in trained for kind in ("names", "keywords")
      for caption in example.about[kind].values()
  }
  return {
      **{name: len(examples) for name, examples in splits.items()},
      "classes": len(_emoji_shards.classes("train", concepts)),
      "concepts held out": len(_emoji_shards.classes("concepts", concepts)),
      "captions": len(captions),
  }
