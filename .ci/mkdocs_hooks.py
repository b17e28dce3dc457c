"""Links of pages to files outside docs/ lead to the repository, or name the file where no repo_url is set.

Sections of docstrings need no empty line before them.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for every page.

    Raises:
        FileNotFoundError: a link to a file that is not there.
    """

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        (ROOT / target.split("#")[0]).resolve(strict=True)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target})"
        return text if text in target else f"{text} (`{target}`)"

    return re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", link, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for every page: options without a default have none to show."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


class Sections(Extension):
    """Gives every section the empty line that griffe wants before it."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            sections = r"(?<=[^\n])\n(Returns|Raises|Yields|Source|Args|Attributes):\n"
            obj.docstring.value = re.sub(sections, r"\n\n\1:\n", obj.docstring.value)
