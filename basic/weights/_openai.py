"""OpenAI's tensor names of CLIP's transformers."""

from basic.weights import _hugging_face, _table

Row = _table.Row


def image(ours: str) -> tuple[_table.Row, ...]:
  """The rows of a vision transformer and its projection.

  Args:
    ours: name of the tower.
  """
  return (
      Row("visual.conv1.weight", "d c p p", f"{ours}/encoder/stem/kernel",
          "patches"),
      Row("visual.class_embedding", "d", f"{ours}/encoder/token"),
      Row("visual.positional_embedding", "n d", f"{ours}/encoder/table"),
      *_hugging_face.norm("visual.ln_pre", f"{ours}/encoder/entry_norm"),
      *blocks("visual.transformer", f"{ours}/encoder"),
      *_hugging_face.norm("visual.ln_post", f"{ours}/encoder/norm"),
      Row("visual.proj", "d e", f"{ours}/projection/kernel"),
  )


def text(ours: str) -> tuple[_table.Row, ...]:
  """The rows of a text tower and its projection.

  Args:
    ours: name of the tower.
  """
  return (
      Row("token_embedding.weight", "v d", f"{ours}/encoder/vocabulary"),
      Row("positional_embedding", "t d", f"{ours}/encoder/positions"),
      *blocks("transformer", f"{ours}/encoder"),
      *_hugging_face.norm("ln_final", f"{ours}/encoder/norm"),
      Row("text_projection", "d e", f"{ours}/projection/kernel"),
  )


def blocks(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  """The rows of a stack of pre-norm blocks.

  Args:
    theirs: the prefix of ".resblocks": "visual.transformer".
    ours: path of the encoder: "image/encoder".
  """
  layer, block = f"{theirs}.resblocks.{{l}}", f"{ours}/blocks"
  return (
      *_hugging_face.attention(
          f"{layer}.attn", f"{block}/attention", "_in_proj_"),
      Row(f"{layer}.mlp.c_fc.weight", "m d", f"{block}/mlp/in/kernel",
          "linear"),
      Row(f"{layer}.mlp.c_fc.bias", "m", f"{block}/mlp/in/bias"),
      Row(f"{layer}.mlp.c_proj.weight", "d m", f"{block}/mlp/out/kernel",
          "linear"),
      Row(f"{layer}.mlp.c_proj.bias", "d", f"{block}/mlp/out/bias"),
      *_hugging_face.norm(f"{layer}.ln_1", f"{block}/attention_norm"),
      *_hugging_face.norm(f"{layer}.ln_2", f"{block}/mlp_norm"),
  )
