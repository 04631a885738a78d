"""The licence file of the emoji: whose the pictures and the words are."""

from collections.abc import Mapping

from basic.preparation import _emoji_packages, _emoji_pictures

_HEAD = """# Licences of the pictures and the words in this folder

Made by `python -m basic.prepare emoji` from packages of the npm registry. The
pictures were rendered on white at another size, and not changed otherwise. Whoever
passes them on passes on this file with them. The vendor of a picture is the
beginning of its key in the shards.
"""


def text(
    vendors: Mapping[_emoji_pictures.Vendor, _emoji_packages.Content],
    words: _emoji_packages.Content,
) -> str:
  """The file, Markdown.

  Args:
    vendors: the content of each vendor's package.
    words: the content of the package with names and keywords.
  """
  return "\n".join([
      _HEAD, *(_section(*each) for each in vendors.items()), _of_words(words)
  ])


def _section(
    vendor: _emoji_pictures.Vendor, content: _emoji_packages.Content
) -> str:
  licence, package = _emoji_pictures.licence(vendor, content), content.package
  return "\n".join(line for line in [
      f"## {vendor.name}", "",
      f"- By: {licence.author}", f"- Licence: {licence.title} <{licence.url}>",
      f"- Package: {package.name} {package.version}",
      f"- {vendor.notice}" if vendor.notice else None, "",
  ] if line is not None)


def _of_words(words: _emoji_packages.Content) -> str:
  package = words.package
  licence = words.files.get("LICENSE", b"").decode("utf-8", "replace").strip()
  return "\n".join([
      "## Names and keywords", "",
      f"- Package: {package.name} {package.version}, MIT, whose text follows",
      "- They are those of the Unicode Common Locale Data Repository (CLDR),",
      "  Unicode-3.0 <https://www.unicode.org/license.txt>", "",
      *(f"    {line}".rstrip() for line in licence.splitlines()), "",
  ])
