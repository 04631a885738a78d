"""python -m basic.train --config configs/digits_65k.py --workdir runs/digits_65k

An exact contrastive batch of 65,536 on two CPU cores: small towers on scenes of
handwritten digits, with the batch size growing in three stages of one run. Each
chunk has 1,024 rows whatever the batch size, and the similarity matrix is never
in memory.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=14, batch_size=65_536,
      stages=(
          dict(steps=8, batch_size=4_096, gradient=dict(chunks=4)),
          dict(steps=4, batch_size=16_384, gradient=dict(chunks=16)),
          dict(steps=2, batch_size=65_536, gradient=dict(chunks=64)),
      ),
      source=dict(name="digits", split="train", length=1_000_000),
      image=dict(
          name="vit", width=48, depth=1, heads=2, patch=8, dtype="float32"),
      text=dict(
          name="text_transformer", vocab=256, length=20, width=48, depth=1,
          heads=2, dtype="float32"),
      projection=dict(width=32),
      objective=dict(name="softmax", scale=10., distinct="caption_id"),
      gradient=dict(name="cached", chunks=64),
      optimizer=dict(name="adamw", peak=3e-3, warmup=2, decay=1e-2),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(
          single=dict(
              name="zeroshot", templates=("the digit {}", "a {}"),
              source=dict(name="digits", split="test", kind="single"))),
      checkpoint=dict(every=2, keep=2),
      record=dict(every=1),
  ))
