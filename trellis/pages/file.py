"""A page as one HTML file: it opens without kernel and without network, and its data is in it.

The file may hold words that anybody sent: an order's address, a reason. They are data, never markup, and the page's
content security policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from trellis.errors import BadInput
from trellis.pages.joining import Page

PACKED_FROM = 300_000
"""Data of at least so many characters is compressed. Less stays readable in an editor."""


def document(page: Page, title: str, data: Any) -> str:
    """The page with its data as the text of an HTML file. data: plain JSON values. Raises BadInput for others."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise BadInput(f"What should be saved is not plain JSON ({error}).") from None
    form = "json"
    if len(text) >= PACKED_FROM:
        # Lone surrogates cannot be encoded. The replacement shows that something was there.
        form, text = "gzip", base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 9, mtime=0)).decode()
    script = page.script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'"
    return f"""<!doctype html>
<html lang="en" class="tr-file">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{page.style()}</style>
</head>
<body>
<main id="tr-root" class="tr-page">Reading the file …</main>
<noscript>This page needs JavaScript. It fetches nothing.</noscript>
<script type="application/json" id="tr-data" data-form="{form}">{_inert(text)}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _inert(text: str) -> str:
    """JSON that cannot end its script element. U+2028 and U+2029 end a line in older JavaScript."""
    for char in "<\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def write(path: str | os.PathLike[str], text: str) -> Path:
    """Write the file whole, or not at all. Raises BadInput when it cannot be written."""
    target = Path(path).expanduser()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}-", encoding="utf-8", errors="replace", newline="\n",
            delete=False,
        ) as file:  # fmt: skip
            temporary = Path(file.name)
            file.write(text)
        # A temporary file is private. This one is written to be handed on.
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise BadInput(f"{target} cannot be written: {error.strerror or error}.") from None
    return target
