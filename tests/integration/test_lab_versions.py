"""Letters under worker versioning: two deployments with the same three builds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import lab_of_its_own
from trellis import lab
from trellis.errors import BadInput
from trellis.lab.essays.edits import EDITS
from trellis.lab.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with lab_of_its_own() as session:
        yield session


def test_a_pinned_letter_stays_with_its_build_and_the_other_moves_and_breaks_until_it_is_patched(
    session: Session,
) -> None:
    """Each workflow task says which build it was for. Only the letter that moved failed to replay."""
    letters = lab.letters(session)
    try:
        letters.deploy(1)
        letters.write()
        assert list(letters.table()["letter"]) == ["", ""]
        letters.deploy(2)
        letters.post()
        letters.deploy(3)
        letters.arrive()
        pinned, moved = letters.table().to_dict("records")
    finally:
        letters.stop()
    assert set(pinned["builds"].split(", ")) == {"1"}
    assert pinned["failed"] == 0
    assert moved["builds"].startswith("1")
    assert moved["builds"].endswith("3")
    assert moved["failed"] >= 1
    assert pinned["letter"] == moved["letter"] == "a letter, folded, sealed, carried"
    with pytest.raises(BadInput, match="no build 4"):
        letters.deploy(4)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_an_essay_fits_the_code(session: Session, edit: str) -> None:
    """The copy has the edit. An edit that does not exist is refused."""
    assert EDITS[edit].new in lab.edited(session, edit).read_text("utf-8")
    with pytest.raises(BadInput, match="There is no edit"):
        lab.edited(session, "another")
