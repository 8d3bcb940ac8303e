"""The application: routes, guard, the page at /, and what happens to errors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from modules.server import old_clients, routes
from modules.server.guard import Guard
from modules.server.refusals import Refusal, refusal_of
from modules.server.schema import describe_forms
from modules.server.service import Service

_SWEEP_SECONDS = 5.0
_TITLE = "Singing voice conversion"


def build_app(service: Service, token: str | None) -> Guard:
    """The application over a service; `token` as of `Guard`."""

    @contextlib.asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(service))
        yield
        task.cancel()

    # FastAPI's own pages load their scripts from elsewhere.
    app = FastAPI(title=_TITLE, docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(old_clients.router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _mistake)
    for path, name, media in (("/", "page.html", "text/html"), ("/page.js", "page.js", "text/javascript")):
        content = (Path(__file__).parent / name).read_bytes()
        app.add_api_route(path, _static(content, media), include_in_schema=False)
    schema = describe_forms(app.openapi(), next(iter(service.voices.values())))

    async def openapi() -> JSONResponse:
        return JSONResponse(schema)

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    return Guard(app, token, service.metrics)


def _static(content: bytes, media: str) -> Any:
    async def show() -> Response:
        return Response(content, media_type=f"{media}; charset=utf-8")

    return show


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        await asyncio.to_thread(service.queue.sweep)


async def _refused(_: Request, error: Refusal) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _no_route(_: Request, error: HTTPException) -> JSONResponse:
    text = "no such address; / lists all" if error.status_code == 404 else str(error.detail)
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _mistake(request: Request, error: Exception) -> JSONResponse:
    return await _refused(request, refusal_of(error, {}))
