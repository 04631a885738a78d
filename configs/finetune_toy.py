"""python -m basic.train --config configs/finetune_toy.py --workdir runs/finetune_toy

Robust fine-tuning on handwritten digits: two towers are pretrained contrastively
on scenes of digits; then the image tower is fine-tuned on labelled single digits,
with the text tower locked. That improves single digits and degrades pairs, which
are not in the second stage. Interpolated weights keep most of both:

    python -m basic.interpolate --workdir runs/finetune_toy --start 800

To fine-tune weights of another project (`weights=...`), use the second stage
alone: they are saved as step 0, so interpolate with `--start 0`. Labels are
turned into captions, so that the loss of fine-tuning is that of pretraining, as
in Goyal et al., Finetune like you pretrain, 2022
(https://arxiv.org/abs/2212.00638). The interpolation is that of Wortsman et al.,
2021 (https://arxiv.org/abs/2109.01903).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=900, batch_size=256,
      stages=(
          dict(steps=800),
          dict(
              steps=100, frozen=("text/.*", "objective/.*"),
              source=dict(name="digits", split="train", kind="single"),
              captions=dict(templates=("the digit {}", "a {}")),
              optimizer=dict(peak=5e-4, warmup=20)),
      ),
      source=dict(
          name="digits", split="train", mix=(.05, .65, .15, .15)),
      image=dict(
          name="vit", width=96, depth=2, heads=4, patch=8, stem="convolution",
          positions="sincos", pool="mean", dtype="float32"),
      text=dict(
          name="text_transformer", vocab=256, length=20, width=96, depth=1,
          heads=4, causal=True, dtype="float32"),
      projection=dict(width=64),
      objective=dict(name="softmax", scale=20., distinct="caption_id"),
      gradient=dict(name="cached", chunks=1),
      optimizer=dict(name="adamw", peak=3e-3, warmup=100, decay=1e-1, b2=.98),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(
          single=dict(
              name="zeroshot", every=800, templates=("the digit {}", "a {}"),
              source=dict(name="digits", split="test", kind="single")),
          pairs=dict(
              name="zeroshot", every=800,
              source=dict(name="digits", split="test", kind="pairs")),
      ),
      checkpoint=dict(every=400, keep=2, keep_every=800),
      record=dict(every=1),
  ))
