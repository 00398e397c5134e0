"""The status page: one self-contained document, put together from the files beside this one.

Nothing in it depends on the node: it asks the API. So its policy can name the style and the script by their hashes,
and a browser runs nothing else, whatever a name or a message of the cluster contains.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources

SCRIPTS = ("shared.js", "leases.js", "notices.js", "members.js", "holdings.js", "story.js", "live.js")
"""In the order in which they build on each other; one scope."""

STYLE_MARK, SCRIPT_MARK = "/* style */", "/* script */"


@dataclass(frozen=True, slots=True)
class Page:
    body: bytes
    policy: str
    """Content-Security-Policy."""
    tag: str
    """ETag."""


def assemble() -> Page:
    """Reads package data; once, at start."""
    files = resources.files(__name__)
    style = files.joinpath("page.css").read_text("utf-8")
    parts = [files.joinpath(name).read_text("utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    document = files.joinpath("page.html").read_text("utf-8")
    body = document.replace(STYLE_MARK, style).replace(SCRIPT_MARK, script).encode()
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(
        body=body,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        tag=f'W/"{hashlib.sha256(body).hexdigest()[:24]}"',
    )


def _hash(text: str) -> str:
    """The source expression that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
