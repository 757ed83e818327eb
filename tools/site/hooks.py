"""Hooks of MkDocs: pages from files outside of docs/, and links that suit the site.

A page is written once, where it is read on the repository's pages: README.md of a program stays
beside the program, and is a page of the site as well. Links between them are relative paths of the
repository. On the site, a link

- to a page or to a file in docs/ leads there, wherever its source is;
- to any other file of the repository leads to `repo_url`; while mkdocs.yml has none, it is plain
  text.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.site")  # a warning ends a strict build
ROOT = Path(__file__).resolve().parents[2]
# File of the repository -> its page on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "annotate/README.md": "programs/annotate.md",
    "bench/README.md": "programs/bench.md",
    "checkpoints/miniworld-tiny/README.md": "miniworld-tiny.md",
    "convert/README.md": "programs/convert.md",
    "demo/README.md": "programs/demo.md",
    "eval/README.md": "programs/eval.md",
    "train/README.md": "programs/train.md",
    "examples/notebooks/ask.ipynb": "notebooks/ask.md",
    "examples/notebooks/fine_tune.ipynb": "notebooks/fine_tune.md",
    "examples/notebooks/annotate.ipynb": "notebooks/annotate.md",
}
DOCS = "docs/"
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
ABSOLUTE = re.compile(r"[a-z]+:|#|/")
REMOTE_IMAGE = re.compile(r"!\[([^\]]*)\]\(https?:[^)]*\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/."""
    for source, page in PAGES.items():
        if not (ROOT / source).is_file():
            raise PluginError(f"tools/site/hooks.py names {source}, which does not exist")
        text = (ROOT / source).read_text(encoding="utf-8")
        content = notebook_markdown(text) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=content))
    return files


def notebook_markdown(text: str) -> str:
    """Return a notebook as Markdown: its texts, and its code as blocks. Outputs are not stored.

    The image of the link to Colab becomes text: the site loads nothing from elsewhere.
    """
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        cells.append(f"```python\n{source}\n```" if is_code else REMOTE_IMAGE.sub(r"\1", source))
    return "\n\n".join(cells)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the relative links of a page."""
    source = source_of(page.file.src_uri)
    present = {file.src_uri for file in files}
    return rewrite_links(markdown, source, present, config.repo_url or "")


def source_of(page: str) -> str:
    """Return the file of the repository that a page of the site is made of."""
    return next((source for source, name in PAGES.items() if name == page), f"{DOCS}{page}")


def page_of(source: str) -> str:
    """Return the path on the site of a file of the repository; "" if it has none."""
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix(DOCS) if source.startswith(DOCS) else ""


def rewrite_links(markdown: str, source: str, present: set[str], repository: str) -> str:
    """Rewrite the relative links of a document, but not those in its code blocks.

    Args:
        markdown: the document.
        source: its path in the repository.
        present: paths of the files of the site.
        repository: address of the files of the repository; "" for none.
    """
    folder = posixpath.dirname(page_of(source))

    def rewritten(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if ABSOLUTE.match(link["target"]):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = page_of(path)
        if page in present:
            address = posixpath.relpath(page, folder or ".") + (f"#{anchor}" if anchor else "")
            return f"{link['mark']}[{link['text']}]({address})"
        if not (ROOT / path).exists():
            LOG.warning("%s links to %s, which does not exist", source, link["target"])
        if repository:
            return f"{link['mark']}[{link['text']}]({repository.rstrip('/')}/blob/main/{path})"
        return link["text"]

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(rewritten, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(rewritten, markdown[end:])])
