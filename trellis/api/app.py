"""The routes. Each parses what was sent, calls the desk, and returns the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from trellis.api import schema
from trellis.api.bodies import busy, error, read_cursor, write_cursor
from trellis.api.docs import page
from trellis.api.gate import INSIDE, Gate
from trellis.desk import Desk, Receipt
from trellis.errors import BadInput, ConfigError, OrderConflict, OrderNotFound, RequestRefused, StackError, TrellisError
from trellis.model import State
from trellis.parsing import parse_address, parse_approve, parse_cancel, parse_start, read_json
from trellis.policies import read_policy

log = structlog.get_logger("trellis.api")

STATUS_SECONDS = 0.025
"""How long a status waits for Temporal [s]. A busy Temporal is slow, and the ledger knows nearly as much."""

ADDRESS_SUMMARY = "Send the parcel elsewhere: the new address replaces the whole old one"

Id = Annotated[str, Path(json_schema_extra=schema.ID)]

_KINDS: dict[type[TrellisError], tuple[int, str]] = {
    BadInput: (422, "bad_input"),
    OrderNotFound: (404, "not_found"),
    OrderConflict: (409, "conflict"),
    RequestRefused: (409, "refused"),
    ConfigError: (503, "misconfigured"),
}
_SENTENCES = {404: "There is no such path. GET /docs shows all.", 405: "This path does not take that method."}


def _answers(*codes: int, **models: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation: its own, and those that any may give."""
    own: dict[int | str, dict[str, Any]] = {int(name[1:]): {"model": model} for name, model in models.items()}
    return own | {code: {"model": schema.Problem} for code in (401, 403, 408, 413, 503, *codes)}


def create(desk: Desk, *, token: str | None = None, inside: int = INSIDE) -> FastAPI:
    """The application on a desk. Every request but those for /health and the documents must carry the `token`, if
    given."""
    app = FastAPI(
        title="Trellis",
        version="1",
        description="Orders on Temporal and Postgres: start them, steer them, watch them.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Gate, token=token, inside=inside)

    # --- starting and steering ---------------------------------------------------------------------------

    @app.post(
        "/orders/{order_id}/start",
        summary="Start an order; the same body again returns the same run",
        openapi_extra=schema.body(schema.START, schema.START_EXAMPLES, required=True),
        responses=_answers(409, 422, _200=schema.Started),
        response_model=schema.Started,
        response_description="Started",
        status_code=201,
    )
    async def start(order_id: Id, request: Request) -> JSONResponse:
        body = read_json(await request.body())
        wanted = body.pop("policy", None) if isinstance(body, dict) else None
        order = parse_start(order_id, body)
        policy = None if wanted is None else read_policy(wanted, desk.settings.policy)
        started = await desk.start(order, policy)
        return JSONResponse(
            {"workflow_id": started.workflow_id, "run_id": started.run_id}, 201 if started.created else 200
        )

    def steer(path: str, summary: str, body: dict[str, Any]) -> Callable[[Any], Any]:
        return app.post(
            f"/orders/{{order_id}}/{path}",
            summary=summary,
            openapi_extra=body,
            responses=_answers(404, 409, 422),
            response_model=schema.Receipt,
            response_description="Accepted, or pending until a worker judges it",
            status_code=202,
        )

    async def receipt(asked: Awaitable[Receipt]) -> JSONResponse:
        given = await asked
        return JSONResponse({"verdict": given.verdict, "reason": given.reason}, 202)

    @steer("signals/approve", "End the review", schema.body(schema.NOTHING, {"nothing": {"value": {}}}, required=False))
    async def approve(order_id: Id, request: Request) -> JSONResponse:
        parse_approve(read_json(await request.body()))
        return await receipt(desk.approve(order_id))

    @steer(
        "signals/cancel",
        "Cancel, and refund what was charged",
        schema.body(schema.REASON, schema.CANCEL_EXAMPLES, required=False),
    )
    async def cancel(order_id: Id, request: Request) -> JSONResponse:
        return await receipt(desk.cancel(order_id, parse_cancel(read_json(await request.body()))))

    move = schema.body(schema.MOVE, schema.MOVE_EXAMPLES, required=True)

    @steer("address", f"{ADDRESS_SUMMARY} (an alias of signals/update-address)", move)
    @steer("signals/address", f"{ADDRESS_SUMMARY} (an alias of signals/update-address)", move)
    @steer("signals/update-address", ADDRESS_SUMMARY, move)
    async def update_address(order_id: Id, request: Request) -> JSONResponse:
        address = parse_address(read_json(await request.body()))
        return await receipt(desk.update_address(order_id, address))

    # --- looking ------------------------------------------------------------------------------------------

    @app.get(
        "/orders/{order_id}/status",
        summary="Where an order stands, with its last 20 events",
        responses=_answers(404, 422),
        response_model=schema.Status,
    )
    async def status(order_id: Id) -> JSONResponse:
        found = await desk.status(order_id, patience=STATUS_SECONDS)
        return JSONResponse(found.to_json())

    @app.get(
        "/orders/{order_id}/events",
        summary="All that happened to an order, oldest first",
        responses=_answers(404, 422),
        response_model=schema.Log,
    )
    async def events(order_id: Id) -> JSONResponse:
        return JSONResponse({"events": [row.to_json() for row in await desk.events(order_id)]})

    @app.get("/orders", summary="Orders, newest first, in pages", responses=_answers(422), response_model=schema.Page)
    async def orders(
        state: Annotated[str | None, Query(json_schema_extra={"enum": list(State)})] = None,
        limit: Annotated[int, Query(json_schema_extra={"minimum": 1, "maximum": 1000})] = 50,
        after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    ) -> JSONResponse:
        rows = await desk.orders(state=state, limit=limit, after=read_cursor(after) if after is not None else None)
        # A full page may be the last one. Then the next page is empty and has no `next`.
        following = write_cursor(rows[-1].created_at, rows[-1].id) if len(rows) == limit else None
        return JSONResponse({"orders": [row.to_json() for row in rows], "next": following})

    looking: asyncio.Task[dict[str, bool]] | None = None

    @app.get(
        "/health",
        summary="Do both servers answer?",
        responses={503: {"model": schema.Health}},
        response_model=schema.Health,
    )
    async def health() -> JSONResponse:
        # The gate lets every health request pass, so requests at the same time share one check.
        nonlocal looking
        if looking is None or looking.done():
            looking = asyncio.create_task(desk.health())
        found = await asyncio.shield(looking)
        ok = all(found.values())
        return JSONResponse({"ok": ok, **found}, 200 if ok else 503, None if ok else {"Retry-After": "1"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(
            page(app.openapi()), headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"}
        )

    # --- what goes wrong ----------------------------------------------------------------------------------

    @app.exception_handler(TrellisError)
    async def _(_: Request, problem: TrellisError) -> JSONResponse:
        if isinstance(problem, StackError):
            log.warning("a server does not answer", error=str(problem))
            return busy(str(problem))
        status_code, kind = _KINDS.get(type(problem), (500, "internal"))
        return error(status_code, kind, str(problem))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, problem: RequestValidationError) -> JSONResponse:
        # The answer never repeats the value that was sent: it may be NaN, which JSON does not have.
        first = problem.errors()[0]
        return error(422, "bad_input", f"{first['loc'][-1]}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def _(_: Request, problem: HTTPException) -> JSONResponse:
        kind = {404: "not_found", 405: "method_not_allowed"}.get(problem.status_code, "bad_input")
        sentence = _SENTENCES.get(problem.status_code, str(problem.detail))
        return error(problem.status_code, kind, sentence, problem.headers)

    @app.exception_handler(Exception)
    async def _(_: Request, problem: Exception) -> JSONResponse:
        return error(500, "internal", "Trellis made a mistake. The API's log says more.")

    return app
