"""The JSON API's description: /api/openapi.json for programs, /api/docs for people. Neither loads anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from heedful import __version__
from heedful.web.routing import Routes, Visiting

DESCRIPTION = """\
Programs can do here what people do on the pages. First `GET /api/v1/session` for a CSRF token, then log in with
`POST /api/v1/session`. The response sets the session cookie and contains a new CSRF token: send it in the header
`X-CSRF-Token` with every request except GET. Times are in seconds since 1970-01-01 UTC. An error is a problem document
(RFC 9457) with `title`, `status` and `detail`, and, where they help, `expected`, `got` and `next`.
"""
PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong, and what to do next.",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "expected": {"type": "string"},
        "got": {"type": "string"},
        "next": {"type": "string"},
        "where": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "object"}},
    },
}
FAILURES = {
    "400": "The request could not be read",
    "401": "Not logged in",
    "403": "Not allowed for your role, or the CSRF token is missing or wrong",
    "404": "It does not exist, or it is not yours",
    "409": "Someone else, or another page of yours, changed it first",
    "413": "The request is too large",
    "422": "A value is missing or not valid",
    "429": "Too many attempts",
    "502": "The model server could not answer",
}


def routes(add: Routes) -> None:
    """The OpenAPI description and the page that shows it."""
    add.get("/api/openapi.json", openapi_json, who="public")
    add.get("/api/docs", docs, who="public")


def openapi_json(visit: Visiting) -> Response:
    """The API as OpenAPI 3.1."""
    return JSONResponse(description_of(visit.request.app))


def docs(visit: Visiting) -> Response:
    """The API as a page for people."""
    openapi = description_of(visit.request.app)
    return visit.page(
        "api/api_docs.html", openapi=openapi, operations=list(_operations(openapi)), schemas=list(_schemas(openapi))
    )


def description_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=f"{app.title}: JSON API", version=__version__, description=DESCRIPTION, routes=app.routes)
        components = made.setdefault("components", {})
        components["securitySchemes"] = {
            "session": {"type": "apiKey", "in": "cookie", "name": "heedful_session"},
            "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
        }
        components.setdefault("schemas", {})["Problem"] = PROBLEM
        for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own: our answers are problem documents
            components["schemas"].pop(unused, None)
        problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for methods in made["paths"].values():
            for method, operation in methods.items():
                for status, text in FAILURES.items():
                    operation["responses"][status] = {"description": text, "content": problem}
                schemes = {} if operation["x-who"] == "public" else {"session": []}
                operation["security"] = [schemes if method == "get" else schemes | {"csrf": []}]
        app.openapi_schema = made
    return app.openapi_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path, as the page shows it."""

    method: str
    path: str
    who: str
    text: str
    parameters: list[Field]
    body: str | None
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A parameter, or a field of a schema."""

    name: str
    type: str
    required: bool
    text: str


def _operations(openapi: Mapping[str, Any]) -> Iterator[Operation]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            answer = operation["responses"].get("200", {}).get("content", {})
            yield Operation(
                method=method.upper(),
                path=path,
                who=operation["x-who"],
                text=operation.get("description", operation["summary"]),
                parameters=[
                    Field(
                        name=parameter["name"],
                        type=_type(parameter["schema"]),
                        required=parameter["required"],
                        text=parameter.get("description", ""),
                    )
                    for parameter in operation.get("parameters", [])
                ],
                body=next((_type(content["schema"]) for content in body.values()), None),
                answer=next((_type(content.get("schema", {})) for content in answer.values()), "nothing"),
            )


def _schemas(openapi: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Field]]]:
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        required = schema.get("required", [])
        fields = [
            Field(name=field, type=_type(of), required=field in required, text=of.get("description", ""))
            for field, of in schema.get("properties", {}).items()
        ]
        yield name, schema.get("description", ""), fields


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return schema.get("type", "anything")
