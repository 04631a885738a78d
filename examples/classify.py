"""python examples/classify.py EXPORTED image.npy "a cat" "a dog" ...

Says which text fits an image best, with what `python -m basic.export --format
stablehlo` wrote and without this package. The image is uint8 [h w c], already
of the size that about.json names.
"""

import json
import pathlib
import sys

import jax.export
import numpy as np

folder, file, *labels = sys.argv[1:]
folder = pathlib.Path(folder)
about = json.loads((folder / "about.json").read_text())
if about["views"] != ["image", "text"] or "scale" not in about:
  sys.exit(f"found the views {about['views']}; expected image and text, contrasted")
image, text = (
    jax.export.deserialize(bytearray((folder / f"{x}.stablehlo").read_bytes()))
    for x in ("image", "text"))
words = str(folder / about["text"]["tokenizer"])
if about["text"]["kind"] == "tokenizers":
  import tokenizers

  pieces = tokenizers.Tokenizer.from_file(words)
  ids = [row.ids for row in pieces.encode_batch(labels)]
else:
  import sentencepiece

  pieces = sentencepiece.SentencePieceProcessor(model_file=words)
  length, eos = about["text"]["shape"][1], about["text"]["eos"]
  ids = [[*pieces.encode(label)[:length - 1], eos] for label in labels]
  ids = [[*row, *[0] * (length - len(row))] for row in ids]
ids = np.array(ids, np.int32)
match = image.call(np.load(file)[None]) @ text.call(ids).T
chance = jax.nn.softmax(about["scale"] * match[0])
for label, share in sorted(zip(labels, chance, strict=True), key=lambda x: -x[1]):
  print(f"{float(share):.4f} {label}")
