"""The server of the review page: Starlette, for this machine only."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from ...pairs import UserError
from .session import AnsweredElsewhere, Session

HOST = "127.0.0.1"
_PAGE = Path(__file__).with_name("page.html")
_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


def application(session: Session, token: str) -> Starlette:
    """Everything lies below the path /TOKEN/: whoever does not know the token gets nothing."""

    def page(_: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        html = _PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
        return HTMLResponse(html, headers={**_PRIVATE, "Content-Security-Policy": policy})

    def state(_: Request) -> Response:
        return JSONResponse(session.state(), headers=_PRIVATE)

    async def answer(request: Request) -> Response:
        try:
            given = await request.json()
            values = [given[name] for name in ("row", "units", "times", "answers")]
            await run_in_threadpool(session.answer, *values)
        except AnsweredElsewhere:
            pass  # in another tab; the state tells this one what comes next
        except (KeyError, TypeError, ValueError) as error:
            return PlainTextResponse(str(error), status_code=400)
        next_ = await run_in_threadpool(session.state)
        return JSONResponse(next_, headers=_PRIVATE, background=BackgroundTask(session.prepare))

    def undo(_: Request) -> Response:
        session.undo()
        return JSONResponse(session.state(), headers=_PRIVATE)

    def said(request: Request) -> Response:
        text = session.said(request.path_params["row"])
        return PlainTextResponse(text or "not labelled yet", status_code=200 if text else 404, headers=_PRIVATE)

    def results(_: Request) -> Response:
        return JSONResponse(session.results(), headers=_PRIVATE)

    def picture(request: Request) -> Response:
        try:
            return Response(session.picture(request.path_params["row"]), media_type="image/jpeg", headers=_PRIVATE)
        except (UserError, ValueError) as error:
            return PlainTextResponse(str(error), status_code=404, headers=_PRIVATE)

    routes = [
        Route("/", page),
        Route("/state", state),
        Route("/answer", answer, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
        Route("/said/{row:int}", said),
        Route("/results", results),
        Route("/picture/{row:int}", picture),
    ]
    # A page of another site that points a name of its own at this machine is refused.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=[hosts])


def serve(session: Session, *, port: int | None = None, ready: Callable[[str], Any]) -> None:
    """Serve the page until the process is interrupted.

    port: None takes any that is free.  ready: called with the page's address as soon as it can be opened.
    Raises UserError if the port is taken.
    """
    import socket

    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port or 0))
    except OSError as error:
        listener.close()
        raise UserError(f"cannot serve on port {port}: {error.strerror}; name another --port, or none") from None
    listener.listen()
    token = secrets.token_urlsafe(16)
    config = uvicorn.Config(application(session, token), log_level="warning", access_log=False, lifespan="off")
    with listener, suppress(KeyboardInterrupt):
        ready(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
        uvicorn.Server(config).run(sockets=[listener])
