"""python -m basic.train --config configs/basic_m.py --workdir runs/basic_m

BASIC-M: CoAtNet-3 and a text tower of 12 layers of width 1024, in the three
stages of Pham et al., 2021 (https://arxiv.org/abs/2111.10050): the image tower
is pretrained on classification; a text tower is trained against the locked image
tower; both are fine-tuned at a low learning rate, with a batch size of 65,536.

The paper's data is not public: JFT-5B, images with several labels each, and
ALIGN, 1.7 billion image-text pairs; stages 2 and 3 use both, with labels turned
into captions. Here ImageNet replaces the former and LAION-400M the latter, both
prepared by TFDS as array_record. Set `source` to the data that you have, and
`classes` with it; to train the text tower on a labelled source, add
captions=dict(templates=("a photo of {}",)).

Known from the paper: towers, batch size of stage 3, optimizer, order of stages,
vocabulary size (by way of the parameter counts). Guesses, to be tuned: steps,
learning rates, weight decay, batch sizes of stages 1 and 2, resolution, heads.
Not stated: embedding width (here that of the image tower, with a projection of
the text alone), initial temperature (here CoCa's), augmentation (ALIGN's crops
and flips), smallest factored dimension of second moments (big_vision's).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=1_050_000, batch_size=65_536,
      stages=(
          dict(
              steps=500_000, batch_size=16_384, text=None,
              projection=dict(width=None, only=None),
              source=dict(
                  name="tfds", dataset="imagenet2012", split="train",
                  text=None, label="label"),
              objective=dict(
                  name="classification", classes=1_000, kind="sigmoid",
                  smoothing=1e-4),
              gradient=dict(chunks=4),
              optimizer=dict(
                  peak=1e-3, schedule="cosine", warmup=25_000, decay=5e-3),
              evals=None),
          dict(
              steps=500_000, frozen=("image/.*",),
              optimizer=dict(peak=1e-3, warmup=25_000)),
          dict(steps=50_000),
      ),
      source=dict(
          name="tfds", dataset="laion400m/images", split="train",
          text="caption"),
      augment=dict(size=224, crop="random", mirror=True),
      image=dict(
          name="coatnet", variant="3", pre_logits=True, remat="products"),
      text=dict(
          name="text_transformer", vocab=32_000, length=64, width=1024,
          depth=12, heads=8, pool="mean", remat="products"),
      tokenizer=dict(captions=200_000),
      projection=dict(width=1536, only=("text",)),
      objective=dict(name="softmax", scale=1 / .07),
      gradient=dict(name="cached", chunks=dict(image=16, text=8)),
      optimizer=dict(
          name="adafactorw", peak=2.5e-4, schedule="linear", warmup=2_500,
          b1=.9, b2=.999, decay=2.5e-3, min_dim_size_to_factor=32,
          mu_dtype="bfloat16"),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(
          food101=dict(
              name="zeroshot", every=50_000, batch_size=1_024,
              templates=(
                  "a photo of {}, a type of food.", "a photo of {}.", "{}"),
              source=dict(
                  name="tfds", dataset="food101", split="validation",
                  label="label")),
          coco=dict(
              name="retrieval", every=50_000, batch_size=1_024,
              source=dict(
                  name="tfds", dataset="coco_captions", split="val",
                  text="captions/text")),
      ),
      checkpoint=dict(every=5_000, keep=3),
      record=dict(every=100),
  ))
