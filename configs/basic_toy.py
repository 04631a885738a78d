"""python -m basic.train --config configs/basic_toy.py --workdir runs/basic_toy

BASIC's three stages on handwritten digits, on two CPU cores in minutes: the
image tower is pretrained to classify ordered pairs of digits; a text tower is
trained against the locked image tower; both are fine-tuned at a low learning
rate.

`configs/basic_toy.py:scratch` is the control: the same towers, data and
optimizer, contrastive from random initialisation, for as many steps as give the
FLOPs of the three stages, as counted by `basic.plan`.
`benchmarks/three_stages.py` compares the two over seeds. Note that the labels of
stage 1 are additional data, and closer to the evaluation than captioned scenes,
as JFT's labels are to ImageNet. Held-out pairs are in neither.
"""

from ml_collections import ConfigDict

STAGES = (
    dict(
        steps=400, text=None, projection=dict(width=None, only=None),
        source=dict(kind="seen_pairs"),
        objective=dict(name="classification", classes=100),
        optimizer=dict(schedule="cosine"), evals=None),
    dict(steps=400, frozen=("image/.*",), optimizer=dict(schedule="cosine")),
    dict(steps=200, optimizer=dict(peak=1e-3)),
)
# 400 steps of 4.02 GFLOP, 400 of 3.13 and 200 of 5.79; 5.79 GFLOP a step.
SCRATCH_STEPS = 694


def get_config(start: str = "") -> ConfigDict:
  config = dict(
      seed=0, steps=1_000, batch_size=128, stages=STAGES,
      source=dict(name="digits", split="train", mix=(.15, .55, .15, .15)),
      image=dict(
          name="vit", width=96, depth=2, heads=4, patch=8, stem="convolution",
          positions="sincos", pool="mean", dtype="float32"),
      text=dict(
          name="text_transformer", vocab=256, length=20, width=96, depth=1,
          heads=4, causal=True, dtype="float32"),
      projection=dict(width=96, only=("text",)),
      objective=dict(name="softmax", scale=20., distinct="caption_id"),
      gradient=dict(name="cached", chunks=1),
      optimizer=dict(
          name="adafactorw", peak=3e-3, schedule="linear", warmup=40, b2=.98,
          decay=1e-1, min_dim_size_to_factor=32),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(
          single=dict(
              name="zeroshot", every=400,
              templates=("the digit {}", "a {}", "a picture of the digit {}"),
              source=dict(name="digits", split="test", kind="single")),
          pairs=dict(
              name="zeroshot", every=400,
              source=dict(name="digits", split="test", kind="pairs")),
          seen_pairs=dict(
              name="zeroshot", every=400,
              source=dict(name="digits", split="test", kind="seen_pairs")),
      ),
      checkpoint=dict(every=400, keep=2),
      record=dict(every=1),
  )
  if start == "scratch":
    config |= dict(stages=(), steps=SCRATCH_STEPS)
    config["optimizer"] |= dict(schedule="cosine", warmup=100)
  return ConfigDict(config)
