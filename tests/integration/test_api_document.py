"""The OpenAPI document, the page made from it, and whether the API does what both say."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis.internal import lambda_sources
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.conftest import House
from tests.integration.http_api import Api
from trellis.api.app import create
from trellis.api.schema import START
from trellis.desk import Desk
from trellis.errors import BadInput
from trellis.parsing import parse_start


async def test_health_and_documents(house: House, api: Api) -> None:
    """Health names both servers; the documents need no other machine, and every example in them is taken."""
    health = await api.http.get("/health")
    assert (health.status_code, health.json()) == (200, {"ok": True, "temporal": True, "database": True})
    docs = (await api.http.get("/docs")).text
    document = (await api.http.get("/openapi.json")).json()
    assert all(path in docs for path in document["paths"])
    assert "http:" not in docs
    assert "https:" not in docs
    forms = document["paths"]["/orders/{order_id}/start"]["post"]["requestBody"]["content"]["application/json"]
    for example in forms["examples"].values():
        order = house.order()
        answer = await api.post(f"/orders/{order.order_id}/start", example["value"] | {"payment_id": order.payment_id})
        assert answer.status_code == 201


def test_the_document_and_the_model_know_the_same_text() -> None:
    """Every character of the basic plane is allowed by both or by neither, alone and between others."""
    fields = START["properties"]["items"]["items"]["anyOf"][0]["properties"]
    text, price = re.compile(fields["sku"]["pattern"]), re.compile(fields["price"]["anyOf"][1]["pattern"])

    def taken(sku: str, price: str = "1") -> bool:
        try:
            parse_start("a", {"payment_id": "p", "items": [{"sku": sku, "price": price}]})
        except BadInput:
            return False
        return True

    for char in (chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000):
        assert bool(text.search(f"a{char}b")) == taken(f"a{char}b"), hex(ord(char))
        assert bool(text.search(char)) <= taken(char), hex(ord(char))
        assert bool(price.search(f"1{char}")) <= taken("a", f"1{char}"), hex(ord(char))
    for fair in ("Straße 1, 東京", "שלום\u200f 5", "👩\u200d🚀", "a\u00a0b", 'O\'Neil & "Sons"'):
        assert text.search(fair)
        assert taken(fair)


# Schemathesis itself draws from `random` when it makes bad data; its cases need not be repeatable here.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.slow
async def test_the_document_is_kept(house: House, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemathesis, over the OpenAPI document: no 500, and only the answers and shapes that the document names."""
    # Hypothesis names a strategy after the source of its lambdas, which it parses. Python 3.11 counts the depth of
    # `ast.parse` for all threads together: parsing in two at once, as a traceback does too, is a SystemError.
    monkeypatch.setattr(lambda_sources, "lambda_description", lambda _: "lambda")
    schema = schemathesis.openapi.from_url(f"{api.address}/openapi.json")

    def fuzz() -> Counter[int]:
        seen: Counter[int] = Counter()
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                if operation.path == "/health" and mode is schemathesis.GenerationMode.NEGATIVE:
                    continue  # it takes nothing that could be wrong

                @given(case=operation.as_strategy(generation_mode=mode))
                @how(
                    max_examples=12,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def one(case: schemathesis.Case[Any]) -> None:
                    response = case.call_and_validate(
                        checks=[
                            not_a_server_error,
                            status_code_conformance,
                            content_type_conformance,
                            response_schema_conformance,
                            unsupported_method,
                        ],
                        timeout=30,
                    )
                    seen[response.status_code] += 1

                one()
        return seen

    seen = await asyncio.to_thread(fuzz)
    assert {200, 201, 422} <= seen.keys(), seen


def test_the_document_names_one_error_shape(idle_desk: Desk) -> None:
    """Every refusal in the OpenAPI document is a Problem, and every body has an example."""
    document = create(idle_desk).openapi()
    # A 503 after a timeout may have reached Temporal: no promise that nothing happened.
    assert "may have been carried out" in document["components"]["schemas"]["Problem"]["description"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for code, answer in operation["responses"].items():
                if int(code) >= 400 and path != "/health":
                    shape = json.dumps(answer["content"]["application/json"]["schema"])
                    assert "Problem" in shape, (method, path, code)
            if method == "post":
                assert operation["requestBody"]["content"]["application/json"]["examples"]
