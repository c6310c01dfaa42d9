"""Reading what people send: what is taken, and what is refused in one sentence."""

from __future__ import annotations

import pytest

from trellis.errors import BadInput
from trellis.parsing import parse_address, parse_cents, parse_order


@pytest.mark.parametrize(
    "price",
    [
        float("nan"),
        float("inf"),
        "NaN",
        "1.234",
        -1,
        "-0.01",
        True,
        None,
        "x",
        10**30,
        "9" * 40,
        "1e999999",
        "1e-999999",
        "1_000",
        "\uff11\uff12",
        "\u0663",
        "1,50",
    ],
)
def test_a_bad_price_is_refused_with_a_sentence(price: object) -> None:
    """NaN, negatives, third decimals and things that are no numbers never become money."""
    with pytest.raises(BadInput, match=r"^The price must .*\.$"):
        parse_cents(price)


@pytest.mark.parametrize(
    ("price", "cents"), [(12, 1200), ("12.5", 1250), (0.1, 10), (19.99, 1999), ("99999999.99", 9999999999)]
)
def test_a_price_is_exact_in_cents(price: object, cents: int) -> None:
    """Prices become cents without rounding."""
    assert parse_cents(price) == cents


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"sku": "a", "quantity": -1}, "quantity"),
        ({"sku": "a", "quantity": 1.5}, "quantity"),
        ({"quantity": 1}, "sku"),
        ({"sku": "a", "qty": 1, "quantity": 1}, "not both"),
        ({"sku": "a", "colour": "red"}, "unknown field"),
        ("a", "object"),
    ],
)
def test_a_bad_item_names_its_field(item: object, sentence: str) -> None:
    """A malformed item is refused by a sentence that says which field."""
    with pytest.raises(BadInput, match=sentence):
        parse_order("a", "p", [item])


@pytest.mark.parametrize("id_", ["", "-a", "a b", "../x", "a" * 65, "x'; drop table orders", None, 5, "a\n"])
def test_a_bad_id_is_refused(id_: object) -> None:
    """Ids are letters, digits and a few marks."""
    with pytest.raises(BadInput, match="order id"):
        parse_order(id_, "p")


def test_aliases_make_the_same_order() -> None:
    """name/qty and street say the same as sku/quantity and line1, down to the fingerprint."""
    one = parse_order("a", "p", [{"sku": "x", "quantity": 2, "price": "1.00"}], {"line1": "s", "city": "c"})
    two = parse_order("a", "p", [{"name": "x", "qty": 2, "price": 1}], {"street": " s ", "city": "c"})
    assert one == two
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"line1": ""},
        {"line1": "a\x00b"},
        {"line1": "a\x9b31mb"},
        {"line1": "a\u202eb"},
        {"line1": "a", "city": "\u2066b"},
        {"line1": 5},
        [],
        {"line1": "a", "planet": "x"},
    ],
)
def test_a_bad_address_is_refused(address: object) -> None:
    """An address needs a line1 of plain text and knows no other fields."""
    with pytest.raises(BadInput, match="address"):
        parse_address(address)
