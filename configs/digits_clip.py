"""python -m basic.train --config configs/digits_clip.py --workdir runs/digits_clip

The quickstart's task with the towers of a CLIP, at a small size: patches, a class
token and learned positions for images, a causal text tower that pools at its end
token. What it trains can be given to other libraries:

    python -m basic.export --workdir runs/digits_clip --format hf_clip --out exported
    python -m basic.export --workdir runs/digits_clip --format open_clip --out exported2

    transformers.CLIPModel.from_pretrained("exported")
    open_clip.create_model_and_transforms("local-dir:exported2")

All sizes may be changed; a CLIP has these `stem`, `positions`, `pool`,
`entry_norm`, `causal` and `epsilon`, and "gelu" or "quick_gelu".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  clip = dict(
      width=96, heads=4, positions="learned", activation="gelu", epsilon=1e-5,
      dtype="float32")
  return ConfigDict(dict(
      seed=0, steps=1_000, batch_size=256,
      source=dict(
          name="digits", split="train", mix=(.2, .6, .1, .1)),
      image=dict(
          clip, name="vit", depth=2, patch=8, stem="patch", pool="token",
          entry_norm=True),
      text=dict(
          clip, name="text_transformer", depth=1, vocab=256, length=20,
          causal=True, pool="eos", eos=3),
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
          scenes=dict(
              name="retrieval", every=500,
              source=dict(name="digits", split="test", kind="scenes")),
      ),
      checkpoint=dict(every=500, keep=2),
      record=dict(every=1),
  ))
