"""python -m basic.train --config configs/finetune_toy.py --workdir runs/finetune_toy

Adaptation without forgetting, on handwritten digits: two towers learn scenes of
digits by contrast; then the image tower learns single digits by their labels,
the text tower locked. What it gains there it loses on pairs, which the second
stage never shows. Between the two lie weights that have most of both:

    python -m basic.interpolate --workdir runs/finetune_toy --start 800

A run may begin from weights of others instead (`weights=...`), and then has its
second stage alone: they are kept as step 0, and the line begins at `--start 0`.
The labels are said in words, so fine-tuning is the same contrast as pretraining,
as in Goyal et al., Finetune like you pretrain, 2022
(https://arxiv.org/abs/2212.00638); the line between the weights is that of
Wortsman et al., 2021 (https://arxiv.org/abs/2109.01903).
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
