"""python -m basic.train --config configs/emoji.py --workdir runs/emoji

Real RGB pictures and real words, on CPU cores: 11 minutes of processor time. Before:

    pip install resvg-py
    python -m basic.prepare emoji --out data/emoji

Trains on the emoji of five vendors with names and keywords in six languages, and
is judged by zero-shot classification, each time of pictures that no training
saw: `concepts` held out of training, among these; trained concepts in a `style`
never seen, among all 1,914; `both` at once; the pictures of `style` by German
names, and by names in Dutch, of which no word was trained on; `new_german`, the
pictures whose German words were withheld from training, beside `new_english`,
the same ones by the names that were trained.

Two pictures of one concept by different vendors are no negatives of each other
(`distinct`), though their captions differ.
"""

from ml_collections import ConfigDict

DATA = "data/emoji"


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=1_600, batch_size=128,
      source=dict(
          name="tar", shards=f"{DATA}/train-*.tar", label="cls", text=_words()),
      image=dict(
          name="vit", width=96, depth=3, heads=4, patch=8, stem="convolution",
          positions="sincos", pool="mean", dtype="float32"),
      text=dict(
          name="text_transformer", vocab=4_096, length=20, width=96, depth=2,
          heads=4, dtype="float32"),
      projection=dict(width=96),
      augment=dict(size=48, crop="random", scale=(.6, 1.)),
      objective=dict(name="softmax", scale=20., distinct="label"),
      gradient=dict(name="direct"),
      optimizer=dict(name="adamw", peak=2e-3, warmup=160, decay=1e-1, b2=.98),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(
          concepts=_zeroshot("concepts", "concepts.en"),
          style=_zeroshot("style", "classes.en"),
          both=_zeroshot("both", "concepts.en"),
          german=_zeroshot("style", "classes.de"),
          dutch=_zeroshot("style", "classes.nl"),
          new_german=_zeroshot("words", "classes.de"),
          new_english=_zeroshot("words", "classes.en"),
      ),
      checkpoint=dict(every=800, keep=1),
      record=dict(every=5),
  ))


def _words() -> dict:
  """Half of the captions are English, three in four are names."""
  others = ("de", "fr", "es", "it", "pt")
  return {
      "json/names/en": 15, "json/keywords/en": 5,
      **{f"json/names/{language}": 3 for language in others},
      **{f"json/keywords/{language}": 1 for language in others},
  }


def _zeroshot(split: str, names: str) -> dict:
  """Judges the pictures of a split among the names in a file."""
  return dict(name="zeroshot", every=None, source=dict(
      name="tar", shards=f"{DATA}/{split}-*.tar", label="cls",
      classes=f"{DATA}/{names}.txt"))
