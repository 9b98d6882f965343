"""Holds a built site to what it promises: `python tests/check_site.py site`. Exit code 1 says what fell short.

No page loads anything from another host, and each page has the lists, tables and blocks of code that GitHub shows of
its source: Python-Markdown, which builds the site, wants four spaces where GitHub is content with two.
"""

from __future__ import annotations

import collections
import html.parser
import re
import sys
from pathlib import Path

from markdown_it import MarkdownIt

DOCS = Path(__file__).parent.parent / "docs"
ELSEWHERE = {"quick_start": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
BLOCKS = ("ul", "ol", "li", "table", "tr", "pre", "blockquote")
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "srcset", "link": "href", "video": "src"}


def main(site: Path) -> int:
    failures = []
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        seen = Seen()
        seen.feed(page.read_text())
        name = page.relative_to(site).with_suffix("").as_posix()
        failures += [f"{name} loads {address}" for address in seen.loads if re.match(r"(\w+:)?//", address)]
        source = DOCS.parent / ELSEWHERE[name] if name in ELSEWHERE else DOCS / f"{name}.md"
        if source.exists() and not name.startswith("api/"):
            expected = Seen(inside=True)
            expected.feed(MarkdownIt("commonmark").enable("table").render(source.read_text()))
            failures += [
                f"{name} has {seen.blocks[block]} <{block}>, GitHub shows {expected.blocks[block]}"
                for block in BLOCKS
                if seen.blocks[block] != expected.blocks[block]
            ]
    for style in site.rglob("*.css"):
        failures += [f"{style} loads {url}" for url in re.findall(r"url\(['\"]?((?:\w+:)?//[^)]*)", style.read_text())]
    print(*failures, f"{len(pages)} pages: {len(failures)} failures", sep="\n")
    return 1 if failures or not pages else 0


class Seen(html.parser.HTMLParser):
    """What a page loads, and how many blocks of each kind its text has."""

    def __init__(self, *, inside: bool = False) -> None:
        super().__init__()
        self.inside, self.loads, self.blocks = inside, [], collections.Counter[str]()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if (address := values.get(LOADS.get(tag, ""))) and values.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(address)
        self.inside |= tag == "article"
        if self.inside:
            self.blocks[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
