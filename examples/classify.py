"""python examples/classify.py EXPORTED image.npy "a cat" "a dog" ...

Zero-shot classification of an image with the files that `python -m basic.export
--format stablehlo` wrote, without this package. The image is uint8 [h w c], 0 to
255, already of the size in about.json; the function normalises it.
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
  sys.exit(
      f"the export has the views {about['views']}; expected image and text of a "
      "contrastive model"
  )
image, text = (
    jax.export.deserialize(bytearray((folder / f"{x}.stablehlo").read_bytes()))
    for x in ("image", "text"))
vocabulary = str(folder / about["text"]["tokenizer"])
if about["text"]["kind"] == "tokenizers":
  import tokenizers

  tokenizer = tokenizers.Tokenizer.from_file(vocabulary)
  ids = [row.ids for row in tokenizer.encode_batch(labels)]
else:
  import sentencepiece

  tokenizer = sentencepiece.SentencePieceProcessor(model_file=vocabulary)
  length, eos = about["text"]["shape"][1], about["text"]["eos"]
  ids = [[*tokenizer.encode(label)[:length - 1], eos] for label in labels]
  ids = [[*row, *[0] * (length - len(row))] for row in ids]
ids = np.array(ids, np.int32)
similarities = image.call(np.load(file)[None]) @ text.call(ids).T
probabilities = jax.nn.softmax(about["scale"] * similarities[0])
ranked = sorted(zip(labels, probabilities, strict=True), key=lambda x: -x[1])
for label, probability in ranked:
  print(f"{float(probability):.4f} {label}")
