"""python -m basic.train --config configs/digits.py --workdir runs/digits

Two small towers on scenes of real handwritten digits, on two CPU cores in
minutes. Zero-shot classification of single test digits and of pairs that never
occur in training; retrieval among 1,000 held-out scenes in both directions.

The difficulty is order: both towers must distinguish "a three to the left of an
eight" from its reverse before either benefits. What makes it work: a causal text
tower, position embeddings as strong as the content (sinusoidal), many scenes of
two digits, and a high initial logit scale.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=1_000, batch_size=256,
      source=dict(
          name="digits", split="train", mix=(.2, .6, .1, .1)),
      image=dict(
          name="vit", width=96, depth=2, heads=4, patch=8, stem="convolution",
          positions="sincos",
          pool="mean", dtype="float32"),
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
              name="zeroshot", every=500,
              templates=("the digit {}", "a {}", "a picture of the digit {}"),
              source=dict(name="digits", split="test", kind="single")),
          pairs=dict(
              name="zeroshot", every=500,
              source=dict(name="digits", split="test", kind="pairs")),
          seen_pairs=dict(
              name="zeroshot", every=500,
              source=dict(name="digits", split="test", kind="seen_pairs")),
          scenes=dict(
              name="retrieval", every=500,
              source=dict(name="digits", split="test", kind="scenes")),
      ),
      checkpoint=dict(every=500, keep=2),
      record=dict(every=1),
  ))
