"""python -m basic.train --config configs/folder.py --workdir runs/folder

Trains on your own pictures: a folder with a CSV of the columns `filepath` and
`title`, or whatever else `basic/sources/folder.py` reads. Name it on the command
line, and the folder of other pictures to be evaluated on:

    --config.source.path=pictures --config.evals.pairs.source.path=test_pictures

Small towers, for two CPU cores: a start, to be made larger with `batch_size`,
`augment.size` and the sizes of the towers where there is a GPU.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      seed=0, steps=1_000, batch_size=128,
      source=dict(name="folder", path="pictures", text=None, label=None),
      augment=dict(size=64, crop="random", scale=(.5, 1.)),
      image=dict(name="vit", width=128, depth=3, heads=4, patch=8, pool="mean"),
      text=dict(
          name="text_transformer", vocab=2_000, length=32, width=128, depth=2,
          heads=4),
      projection=dict(width=128),
      objective=dict(name="softmax", distinct="caption_id"),
      gradient=dict(name="direct"),
      optimizer=dict(name="adamw", peak=1e-3, warmup=100, decay=1e-1, b2=.98),
      mesh=dict(data=-1, fsdp=1, model=1),
      evals=dict(pairs=dict(
          name="retrieval", every=500,
          source=dict(
              name="folder", path="test_pictures", text=None, label=None))),
      checkpoint=dict(every=500, keep=2),
  ))
