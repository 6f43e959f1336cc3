"""A WSGI application whose tasks belong to the users of its requests. `python app.py PORT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

from tasks import invoice

from fairqued import QueueUnavailable, TaskNotFound, TaskQueue, TaskState, as_user

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

queue = TaskQueue()  # thread-safe, and opens nothing until its first use


class AsUser:
    """Middleware: whatever a request enqueues belongs to the user who sent it."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        # A real application takes the user from its session or token, never from a header that anybody may send.
        user = environ.get("HTTP_X_USER")
        if not user:
            return answer(start_response, "401 Unauthorized", {"error": "who are you?"})
        with as_user(user):
            # A list, so that the whole answer is made inside this block, also when the application is a generator.
            return list(self._application(environ, start_response))


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`POST /invoices` enqueues, `GET /invoices/ID` looks how far it is."""
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].split("/"):
        case "POST", ["", "invoices"]:
            return create(environ, start_response)
        case "GET", ["", "invoices", task_id]:
            return show(task_id, environ["HTTP_X_USER"], start_response)
        case _:
            return answer(start_response, "404 Not Found", {"error": "no such page"})


def create(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Enqueue and answer at once. Nobody says here whose task it is: `AsUser` did."""
    query = parse_qs(environ["QUERY_STRING"])
    try:
        task = invoice.task(Decimal(query["hours"][0]), Decimal(query["rate"][0]))
    except (KeyError, InvalidOperation):
        return answer(start_response, "400 Bad Request", {"error": "expected ?hours=NUMBER&rate=NUMBER"})
    try:
        handle = queue.enqueue(task)
    except QueueUnavailable:
        return answer(start_response, "503 Service Unavailable", {"error": "try again later"})
    return answer(start_response, "202 Accepted", {"invoice": handle.task_id})


def show(task_id: str, user: str, start_response: StartResponse) -> Iterable[bytes]:
    """Show the user's own tasks only: ids are no secrets."""
    try:
        info = queue.get(task_id)
    except TaskNotFound:
        info = None
    if info is None or info.user_id != user:
        return answer(start_response, "404 Not Found", {"error": "no such invoice"})
    told: dict[str, object] = {"state": info.state}
    if info.state is TaskState.FINISHED:
        told["result"] = queue.handle(task_id).result()
    elif info.state is TaskState.FAILED:
        told["error"] = info.error_type
    return answer(start_response, "200 OK", told)


def answer(start_response: StartResponse, status: str, told: dict[str, object]) -> Iterable[bytes]:
    """One JSON object."""
    body = json.dumps(told, default=str).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]), AsUser(application)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
