"""What lies outside docs/ becomes part of the site, and links to it lead there.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages. Other files that pages link to come along as text. So the
sources keep the links that work on GitHub and in an editor. Run by mkdocs.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "quick_start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r'(\]\(|(?:src|srcset|href)=")(?!\w+:)([^)\s"#]+)')


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages and files from outside of docs/."""
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages |= {name: (ROOT / name).read_text() for name in PAGES}
    for path, text in pages.items():
        for link in LINK.finditer(text):
            source, target = _resolve(path, link[2])
            if target.startswith("repository/") and files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    for path, target in PAGES.items():
        files.append(File.generated(config, target, content=_relinked(path, pages[path])))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets a page's links out of docs/ lead to what was added, and keeps numbers and their errors on one line."""
    markdown = re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", markdown)
    return markdown if page.file.generated_by else _relinked(f"docs/{page.file.src_uri}", markdown)


def _relinked(path: str, text: str) -> str:
    here = posixpath.dirname(_on_site(path))
    return LINK.sub(lambda link: link[1] + posixpath.relpath(_resolve(path, link[2])[1], here or "."), text)


def _resolve(path: str, link: str) -> tuple[str, str]:
    """Where a link of a file leads: in the repository, and on the site."""
    source = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return source, _on_site(source)


def _on_site(path: str) -> str:
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}.txt")
