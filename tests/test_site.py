"""The documentation site: its pages, its links; it shows what the repository's pages show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import markdown
import pytest
from markdown_it import MarkdownIt
from mkdocs.config import load_config

from tests.test_docs import ROOT
from tools.site.hooks import PAGES, notebook_markdown, page_of, rewrite_links, source_of

# Of the rendered pages; a difference in their number is a list or block that one renderer misses.
ELEMENTS = ("h1", "h2", "h3", "li", "ol", "pre", "table", "td", "ul")
MAIN_HEADING = re.compile(r"^# ", re.MULTILINE)


def sources() -> list[str]:
    """Return the Markdown files that are pages, as paths in the repository."""
    docs = (str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return sorted({*docs, *(source for source in PAGES if source.endswith(".md"))})


def navigation(items: list[Any]) -> list[str]:
    """Return the pages of a navigation, depth first."""
    pages = []
    for item in items:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        pages += navigation(value) if isinstance(value, list) else [value]
    return pages


def test_every_page_is_in_the_navigation_once() -> None:
    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.nav is not None
    listed = Counter(navigation(config.nav))
    notebooks = {page for page in PAGES.values() if page.startswith("notebooks/")}
    assert listed == dict.fromkeys({page_of(source) for source in sources()} | notebooks, 1)


def test_every_program_with_a_readme_is_a_page() -> None:
    readmes = {str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/README.md")}
    assert readmes <= {*PAGES}


class CountElements(HTMLParser):
    """Counts elements of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ELEMENTS:
            self.counts[tag] += 1


@pytest.mark.parametrize("source", sources())
def test_the_site_renders_the_same_blocks_as_the_repository(source: str) -> None:
    """Python-Markdown, of the site, needs more indentation and empty lines than CommonMark."""
    text = (ROOT / source).read_text(encoding="utf-8")
    extensions = ["attr_list", "md_in_html", "tables", "pymdownx.superfences"]
    site = markdown.markdown(text, extensions=extensions)
    # Highlighted code is a table on the site only if lines are numbered; they are not.
    repository = MarkdownIt("commonmark").enable("table").render(text)
    assert CountElements(site).counts == CountElements(repository).counts
    assert len(MAIN_HEADING.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))) == 1


def test_links_lead_to_pages_wherever_they_are() -> None:
    present = {"index.md", "metrics.md", "gallery.png", "programs/train.md", "cloud/README.md"}

    def rewritten(text: str, source: str, repository: str = "") -> str:
        return rewrite_links(text, source, present, repository)

    assert rewritten("[m](docs/metrics.md#a)", "README.md") == "[m](metrics.md#a)"
    assert rewritten("![g](docs/gallery.png)", "README.md") == "![g](gallery.png)"
    assert rewritten("[m](../docs/metrics.md)", "train/README.md") == "[m](../metrics.md)"
    assert rewritten("[t](../train/README.md#x)", "docs/metrics.md") == "[t](programs/train.md#x)"
    assert rewritten("[r](../../README.md)", "docs/cloud/README.md") == "[r](../index.md)"
    assert rewritten("[w](https://a.org/b.md)", "README.md") == "[w](https://a.org/b.md)"
    assert rewritten("[here](#part)", "README.md") == "[here](#part)"
    assert rewritten("```\n[m](docs/metrics.md)\n```", "README.md").count("docs/metrics.md") == 1


def test_a_link_to_code_is_text_until_the_repository_has_an_address() -> None:
    link = "see [the table](../tools/parity/tolerances.py)."
    assert rewrite_links(link, "docs/a.md", set(), "") == "see the table."
    with_address = rewrite_links(link, "docs/a.md", set(), "https://host/owner/name/")
    assert "(https://host/owner/name/blob/main/tools/parity/tolerances.py)" in with_address


def test_a_link_to_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    rewrite_links("[gone](gone.md)", "docs/a.md", set(), "")
    assert "docs/a.md links to gone.md, which does not exist" in caplog.text


def test_a_notebook_is_a_page() -> None:
    code = {"cell_type": "code", "source": ["a = 1\n", "a"]}
    title = {"cell_type": "markdown", "source": ["[![Open](https://a.org/b.svg)](https://a.org)"]}
    page = notebook_markdown(json.dumps({"cells": [title, code]}))
    assert page == "[Open](https://a.org)\n\n```python\na = 1\na\n```"


def test_pages_and_their_sources_correspond() -> None:
    assert source_of("programs/train.md") == "train/README.md"
    assert source_of("cloud/gke.md") == "docs/cloud/gke.md"
    assert page_of("glamm_jax/types.py") == ""


class References(HTMLParser):
    """Links and loaded files of a page, and its anchors."""

    def __init__(self, html: str):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif "src" in values:
            self.loaded.add(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon"):
            self.loaded.add(values.get("href", ""))


def build(root: Path, *options: str) -> subprocess.CompletedProcess:
    """Build the site of a tree as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_strict_build_finds_faults(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "goldens", "out", "dist", "build", "__pycache__")
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=ignored)
    page = tree / "docs" / "glossary.md"
    page.write_text(page.read_text() + "\n[a](gone.md) [b](metrics.md#gone)\n")
    (tree / "docs" / "new.md").write_text("# New\n")
    done = build(tree)
    assert done.returncode == 1
    assert "docs/glossary.md links to gone.md" in done.stderr
    assert "does not contain an anchor '#gone'" in done.stderr
    assert re.search(r"not included in the .nav. configuration:\s+- new.md", done.stderr)


@pytest.mark.slow
def test_the_built_site_is_complete_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build(ROOT, "--site-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    pages = {path: References(path.read_text("utf-8")) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 30
    notebooks = [path for path in pages if path.parent.name == "notebooks"]
    assert len(notebooks) == 3
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        assert not [x for x in page.loaded if re.match(r"(https?:)?//", x)], path
        for link in page.links | page.loaded:
            address, anchor = urldefrag(link)
            if re.match(r"[a-z]+:", link):
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors, f"{path.name}: {link}"
