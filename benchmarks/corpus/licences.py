"""Which licences are free for any use, and what a Debian package says of each of its files."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

# Families that allow any use of what is trained. A name matches from its beginning; see `is_free`.
FREE = re.compile(r"(public[ -]domain|pd\b|cc0|cc-by(-sa)?(-\d|$)|odbl|[al]?gpl|bsd|expat|mit\b|apache|isc\b)")
NOT_FREE = re.compile(r"\b(nc|nd|noncommercial|non-commercial|no-?derivs|sampling)\b")


def is_free(licence: str) -> bool:
    """Whether a licence expression, such as "GPL-2+ or CC-BY-SA-3.0", allows any use.

    One of several licences joined by "or" or "|" is enough; of those joined by "and" or "," all must be free.
    """
    expression = re.sub(r"\bwith\b.*?(exception|$)", "", licence.lower().replace("_", "-"))
    choices = re.split(r"\s+or\s+|\s*\|\s*", expression)
    return any(all(_is_free_name(name) for name in re.split(r"\s+and\s+|,\s*", choice)) for choice in choices)


def _is_free_name(name: str) -> bool:
    name = re.sub(r"^cc[- ](sa-by|by-sa|by)", lambda m: "cc-by-sa" if "sa" in m[1] else "cc-by", name.strip(" ()"))
    name = name.replace(" ", "-")
    return FREE.match(name) is not None and NOT_FREE.search(name) is None


def parse_copyright(text: str) -> list[tuple[list[str], str]]:
    """Stanzas of a machine-readable debian/copyright file.

    Source: Debian policy, "Machine-readable debian/copyright file", version 1.0.

    Returns:
        (patterns, licence) of each `Files:` stanza in the file's order; none for a file in another format.
    """
    stanzas = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "files" in fields and fields.get("license"):
            stanzas.append((fields["files"].replace(",", " ").split(), fields["license"].split("\n")[0].strip()))
    return stanzas


def licence_of(path: str, stanzas: list[tuple[list[str], str]]) -> str:
    """Licence of an installed file.

    Patterns are relative to the source package, where the file may lie in other folders than those it is installed
    to: a pattern fits if it, or what is left of it without some of its first folders, fits an end of the path. Of
    several the one with most folders left decides, and the last of those.

    Returns:
        The short name as the package gives it; "" where no stanza speaks of the file.
    """
    parts = path.split("/")
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    best, licence = 0, ""
    for patterns, name in stanzas:
        for pattern in patterns:
            folders = pattern.split("/")
            for first in range(len(folders)):
                rest = folders[first:]
                if first and rest[0].startswith("*"):
                    break  # "*" alone would fit every file
                if len(rest) >= best and any(fnmatchcase(end, "/".join(rest)) for end in ends):
                    best, licence = len(rest), name
                    break
    return licence
