"""Pages joined from modules, and pages as one file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trellis.errors import BadInput
from trellis.lab.control_room import assets
from trellis.pages.file import PACKED_FROM, document, write
from trellis.pages.joining import SHARED, Page
from trellis.replay import saving

PAGES = {"control room": assets.ROOM, "run": assets.RUN, "time machine": saving.WIDGET, "saved recording": saving.FILE}

_NAMES = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)
_IMPORTS = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";', re.MULTILINE)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_modules_of_a_page_can_be_joined(page: Page) -> None:
    """Joined they share one scope: no name is given twice, each import is exported, no import is left."""
    names: list[str] = []
    for name in page.modules():
        source = page.path(name).read_text("utf-8")
        names += _NAMES.findall(source)
        for imported, other in _IMPORTS.findall(source):
            theirs = page.path(other).read_text("utf-8")
            for one in imported.split(","):
                assert re.search(rf"^export (async )?(function|class|const|let) {one.strip()}\b", theirs, re.MULTILINE)
    assert len(names) == len(set(names))
    assert not re.search(r"^(import|export) (?!default)", page.script(), re.MULTILINE)


def test_a_widget_has_one_default_export_and_a_file_none() -> None:
    """anywidget takes the default export; in a file's script nobody would."""
    exports = {name: page.script().count("export default") for name, page in PAGES.items()}
    assert exports == {"control room": 1, "run": 0, "time machine": 1, "saved recording": 0}


def test_no_module_is_left_out() -> None:
    """Every module in the folders belongs to a page, and every folder has its own names."""
    used = {page.path(name) for page in PAGES.values() for name in page.modules()}
    folders = (SHARED, saving.FOLDER, assets.FOLDER)
    assert used == {path for folder in folders for path in folder.glob("*.js")}
    names = [path.name for folder in folders for path in folder.iterdir()]
    assert len(names) == len(set(names))


class _Scripts(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self._open: dict[str, str | None] | None = None
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self._open = dict(attrs)
        if tag == "meta" and dict(attrs).get("http-equiv"):
            self.policy = str(dict(attrs)["content"])

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.found.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def data_of(text: str) -> object:
    """The data in a file."""
    attributes, data = next(one for one in _Scripts(text).found if one[0].get("id") == "tr-data")
    return json.loads(gzip.decompress(base64.b64decode(data)) if attributes["data-form"] == "gzip" else data)


NASTY = {"why": "</script><script>alert(1)</script> <!-- \u2028 \u2029 & é 🎉", "n": [1, None, True]}


@pytest.mark.parametrize("more", [0, PACKED_FROM], ids=["readable", "packed"])
def test_data_is_never_markup_and_arrives_unchanged(more: int) -> None:
    """What somebody sent may look like a script. It ends no element, and no policy would let it run."""
    data = {**NASTY, "more": "x" * more}
    text = document(saving.FILE, "<b>Title</b>", data)
    scripts = _Scripts(text)
    assert len(scripts.found) == 2, "the data and the page's own script"
    assert data_of(text) == data
    own = scripts.found[1][1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in scripts.policy
    assert "default-src 'none'" in scripts.policy
    assert "<b>Title" not in text


def test_a_file_names_no_address_to_fetch() -> None:
    """No script, style, picture or font comes from elsewhere. The one address is the name of SVG."""
    text = document(saving.FILE, "title", {})
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(?:src|href)=|@import|url\(", text)


def test_what_is_no_json_is_refused_in_a_sentence() -> None:
    """NaN and foreign objects would break the page when it is opened."""
    for wrong in (float("nan"), object()):
        with pytest.raises(BadInput, match="not plain JSON"):
            document(saving.FILE, "title", {"wrong": wrong})


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A folder that is missing is a sentence; an older file is replaced; nothing else is left behind."""
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "missing" / "order.html", "text")
    assert write(tmp_path / "order.html", "first") == tmp_path / "order.html"
    write(tmp_path / "order.html", "second é")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "folder.html", "text")
    assert (tmp_path / "order.html").read_text("utf-8") == "second é"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "order.html"]
