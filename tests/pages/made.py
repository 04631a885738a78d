"""Pages of made-up runs, and a reader that takes them apart."""

import functools
import html.parser

import numpy as np

from basic.pages import page

HOSTILE = "<script>alert('x')</script> \"&\" $\\frac{1$ </style>"
TRAINING = ("loss", "scale", "learning_rate", "gradient_norm",
            "throughput/examples_per_second")
RESULTS = ("retrieval/test/text_to_image@1", "retrieval/test/text_to_image@5",
           "zeroshot@1", "probe/accuracy")


class Reader(html.parser.HTMLParser):
  """Collects tags, attributes and text, and checks that tags are closed."""

  EMPTY = frozenset(("meta", "img", "br", "wbr", "path", "use", "rect"))
  LINKS = frozenset(("src", "srcset", "href", "xlink:href"))

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.links, self.text = [], [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self.links += [v for n, v in attributes if n in self.LINKS]
    if tag not in self.EMPTY:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self.links += [v for n, v in attributes if n in self.LINKS]

  def handle_endtag(self, tag):
    if tag not in self.EMPTY:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def rows(count=5, value=0.5):
  return [
      {"step": n, "time": 1.0, **dict.fromkeys((*TRAINING, *RESULTS), value)}
      for n in range(1, count + 1)
  ]


def unit(x):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def samples(n=6, captions=None, channels=3):
  draw = np.random.default_rng(0)
  x = draw.normal(size=(n, 16))
  return page.Samples(
      draw.integers(0, 256, (n, 8, 8, channels)).astype(np.uint8),
      captions or [f"caption {i}" for i in range(n)],
      unit(x), unit(x + 0.1 * draw.normal(size=(n, 16))), 10.0,
  )


def build(**changes):
  settings = dict(
      title="run", command="train", config={"batch_size": 8}, meta={},
      rows=rows(), samples=samples(),
  )
  return page.page(**{**settings, **changes})


@functools.cache
def whole():
  """The page of a run with everything; made once, as plots take their time."""
  return build(classified=[classified(["cat", "dog"], [0, 0, 1], [0, 1, 1])])


def classified(classes, labels, answers, name="zeroshot/x", examples=None):
  return page.Classified(
      name, classes, np.array(labels, int), np.array(answers, int),
      len(labels) if examples is None else examples,
  )
