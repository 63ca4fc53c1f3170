"""Hooks of mkdocs: the site has the pages of the repository where they are, so that every link holds in both."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PAGES = ("*.md", "docs/*.md", "docs/*.css")
LINK = re.compile(r"\]\(([^)#:]+)[^)]*\)")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\shref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^\s"')]+"""
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the pages from the root of the repository, and with them the files that they link to."""
    root = Path(config.config_file_path).parent
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    linked = {
        target
        for page in pages
        if page.suffix == ".md"
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if (target := (page.parent / link).resolve()).is_file() and target.is_relative_to(root)
    }
    for path in [*pages, *sorted(linked - set(pages))]:
        name = path.relative_to(root).as_posix()
        files.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that fetches anything from elsewhere when a page is opened."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in {".html", ".css"} and (found := FETCHED.search(path.read_text(encoding="utf-8"))):
            raise PluginError(f"{path}: fetches {found[0]}")
