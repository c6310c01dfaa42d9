"""Where a module's sources are, and how they were before."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from trellis.errors import BadInput
from trellis.replay.check.sources import before, copied, environment, find


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A package of three modules; the one to check imports the two others."""
    package = tmp_path / "new" / "shop"
    (package / "parts").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "orders.py": "from shop import prices\nfrom .parts.names import NAME\nimport json\n",
        "prices.py": "PRICE = 2\n",
        "unused.py": "",
        "parts/__init__.py": "",
        "parts/names.py": "NAME = 'new'\n",
    }.items():
        (package / name).write_text(text, "utf-8")
    return package / "orders.py"


def test_a_modules_sources_are_its_file_and_what_it_imports_from_beside(shop: Path) -> None:
    """Not the standard library, and not what nobody imports."""
    sources = find(str(shop))
    assert (sources.module, sources.root) == ("shop.orders", shop.parents[1])
    assert sources.files[0] == shop
    names = {str(file.relative_to(shop.parent)) for file in sources.files}
    assert names == {"orders.py", "prices.py", "__init__.py", "parts/names.py"}


@pytest.mark.parametrize("place", ["", "shop"])
def test_the_old_source_may_be_the_root_or_the_package(shop: Path, tmp_path: Path, place: str) -> None:
    """A file that the folder does not have counts as unchanged."""
    old = tmp_path / "old"
    (old / place).mkdir(parents=True)
    target = old if place == "shop" else old / "shop"
    target.mkdir(exist_ok=True)
    (target / "orders.py").write_text("import shop.prices\n", "utf-8")
    (target / "prices.py").write_text("PRICE = 1\n", "utf-8")
    found = {file.name: text for file, text in before(find(str(shop)), str(old)).items() if file.name != "__init__.py"}
    assert found == {"orders.py": "import shop.prices\n", "prices.py": "PRICE = 1\n", "names.py": "NAME = 'new'\n"}


def test_the_old_source_may_be_in_git(shop: Path) -> None:
    """A file that the revision does not have was not there before."""
    root = shop.parents[1]

    def git(*arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *arguments], cwd=root, check=True, capture_output=True)

    git("init", "-q")
    git("add", "shop/orders.py", "shop/prices.py")
    git("commit", "-qm", "old")
    (shop.parent / "prices.py").write_text("PRICE = 3\n", "utf-8")
    found = {file.name: text for file, text in before(find(str(shop)), "HEAD").items()}
    assert found["prices.py"] == "PRICE = 2\n"
    assert found["names.py"] is None
    with pytest.raises(BadInput, match="no revision 'HEAD~7'"):
        before(find(str(shop)), "HEAD~7")


def test_a_copy_is_found_before_the_original(shop: Path, tmp_path: Path) -> None:
    """And it has the new texts. The original stays as it is."""
    sources = find(str(shop))
    prices = next(file for file in sources.files if file.name == "prices.py")
    copied(sources, tmp_path / "copy", {prices: "PRICE = 9\n"})
    assert environment(tmp_path / "copy")["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "copy")
    assert (tmp_path / "copy" / "shop" / "prices.py").read_text("utf-8") == "PRICE = 9\n"
    assert (tmp_path / "copy" / "shop" / "orders.py").exists()
    assert prices.read_text("utf-8") == "PRICE = 2\n"
