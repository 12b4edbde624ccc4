"""The routes of the service in OpenAPI, by hand: those that matter have no framework around them that could tell."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from mlpmixer.version import __version__

if TYPE_CHECKING:
    from mlpmixer.serve.service import Settings

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
THING: Schema = {"type": "object"}
PLAIN: Schema = {"text/plain": {"schema": TEXT}}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(required: Schema, optional: Schema | None = None, **more: Any) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": [*required], **more}


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _one_of(*schemas: Schema) -> Schema:
    return {"anyOf": [*schemas]}


BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
# A white PNG.
SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAADUlEQVR4nGP4z8SADAEPcQEOqa2awAAAAABJRU5ErkJggg=="
RANKED = {"label": TEXT, "score": NUMBER, "top": _list(_object({"label": TEXT, "score": NUMBER}))}
DATA: Schema = {"type": "array", "items": {}, "description": "Values, row-major, flat or nested as the shape."}
TENSOR = {"name": TEXT, "datatype": TEXT, "shape": _list({"type": "integer"})}

SCHEMAS: dict[str, Schema] = {
    "Problem": _object({"error": _object({"status": {"type": "integer"}, "code": TEXT, "message": TEXT})}),
    "ProblemV2": _object({"error": TEXT}),
    "Prediction": _object(RANKED),
    "Embedding": _object({"embedding": _list(NUMBER)}),
    "Explanation": _object({**RANKED, "explained": TEXT, "drops": _list(_list(NUMBER)), "region": _list(NUMBER)}),
    "Model": _object(
        {
            "name": TEXT,
            "version": TEXT,
            "architecture": TEXT,
            "parameters": COUNT,
            "image_size": _list(COUNT),
            "classes": _list(TEXT),
            "engine": TEXT,
            "precision": TEXT,
            "embedding_size": COUNT,
            "batch_size": COUNT,
            "provenance": THING,
            "reloads": COUNT,
            "reload_error": {"type": ["string", "null"]},
        }
    ),
    "Images": {
        "type": "object",
        "properties": {
            "images": _list(BASE64, minItems=1),
            "image": BASE64,
            "model": TEXT,
            "top": {"type": "integer", "minimum": 1},
        },
        "additionalProperties": False,
        "examples": [{"image": SQUARE, "top": 1}],
    },
    "Form": {
        "type": "object",
        "properties": {"image": {"type": "string", "format": "binary"}, "model": TEXT, "top": TEXT},
        "description": "Every file is an image, whatever its field is called.",
    },
    "Inference": _object(
        examples=[{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [SQUARE]}]}],
        required={"inputs": _list(_object(TENSOR, {"parameters": THING, "data": DATA}), minItems=1, maxItems=1)},
        optional={
            "id": TEXT,
            "parameters": THING,
            "outputs": _list(_object({"name": TEXT}, {"parameters": THING})),
        },
    ),
    "Inferred": _object(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": _list(_object(TENSOR, {"data": DATA, "parameters": THING})),
        },
        {"id": TEXT},
    ),
}


def _json(schema: Schema) -> Schema:
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}


def _refusals(*statuses: int, schema: str = "Problem") -> Schema:
    found: Schema = {}
    for status in statuses:
        found[str(status)] = {**_json(_ref(schema)), "description": HTTPStatus(status).phrase}
        if status in (429, 503):
            found[str(status)]["headers"] = {
                "Retry-After": {"description": "Seconds until it is worth asking again.", "schema": COUNT}
            }
    return found


CHECKED = (400, 401, 403, 421)  # of each request: headers twice, token, page, name
ANSWERED = (*CHECKED, 404, 413, 415, 422, 429, 500, 503, 504)


def _answers(summary: str, schema: str) -> Schema:
    """Of /v1/predict and its like."""
    file: Schema = {"type": "string", "format": "binary"}
    options = [("model", TEXT, "The model's name; by default the first."), ("top", COUNT, "Labels, at most.")]
    predictions = {"predictions": _list(_one_of(_ref(schema), _ref("Problem")))}
    return {
        "post": {
            "summary": summary,
            "operationId": schema.lower(),
            "parameters": [
                {"name": name, "in": "query", "required": False, "description": text, "schema": kind}
                for name, kind, text in options
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "image/*": {"schema": file},
                    "application/octet-stream": {"schema": file},
                    "multipart/form-data": {"schema": _ref("Form")},
                    "application/json": {"schema": _ref("Images")},
                },
            },
            "responses": {
                "200": _json(_object({"model": TEXT, "version": TEXT, **predictions})),
                **_refusals(*ANSWERED),
            },
        }
    }


def _get(summary: str, answer: Schema, *refusals: int, schema: str = "Problem") -> Schema:
    return {"get": {"summary": summary, "responses": {"200": answer, **_refusals(*CHECKED, *refusals, schema=schema)}}}


def _watched(summary: str, content: Schema | None = None, schema: str = "ProblemV2") -> Schema:
    """Of /healthz and its like, which those ask who watch over the service."""
    more = {"content": content} if content else {}
    answers = {
        "200": {"description": "Yes", **more},
        "503": {"description": "No", **more},
        **_refusals(400, 403, 421, schema=schema),
    }
    return {"get": {"summary": summary, "responses": answers}}


def _v2(models: Sequence[str]) -> dict[str, Schema]:
    """Of the Open Inference Protocol."""
    named: Schema = _object({"name": TEXT}, additionalProperties=True)
    binary: Schema = {"schema": {"type": "string", "format": "binary"}}
    index: Schema = {
        "summary": "The models",
        "requestBody": {"content": {"application/json": {"schema": _object({}, {"ready": {"type": "boolean"}})}}},
        "responses": {"200": _json(_list(named)), **_refusals(*CHECKED, 413, 415, schema="ProblemV2")},
    }
    found: dict[str, Schema] = {
        "/v2": _get("The server", _json(named), schema="ProblemV2"),
        "/v2/health/live": _watched("Whether the service works"),
        "/v2/health/ready": _watched("Whether the service takes requests"),
        "/v2/repository/index": {"post": index},
        "/v2/models/stats": _get("What was answered, over all models", _json(THING), schema="ProblemV2"),
    }
    model: Schema = {"type": "string", "enum": [*models]}
    version: Schema = {
        "type": "string",
        "description": "Of the model's file; 1: whichever is there.",
        "examples": ["1"],
    }
    for base, names in (
        ("/v2/models/{model}", {"model": model}),
        ("/v2/models/{model}/versions/{version}", {"model": model, "version": version}),
    ):
        path = [{"name": name, "in": "path", "required": True, "schema": kind} for name, kind in names.items()]
        for route, summary, answer in (
            ("", "Inputs and outputs", _json(named)),
            ("/ready", "Whether the model takes requests", {"description": "Yes"}),
            ("/config", "The model as Triton configures one", _json(named)),
            ("/stats", "What was answered", _json(THING)),
        ):
            found[base + route] = {**_get(summary, answer, 404, 503, schema="ProblemV2"), "parameters": path}
        found[f"{base}/infer"] = {
            "parameters": path,
            "post": {
                "summary": "Labels, probabilities and embeddings, from files or arrays",
                "parameters": [
                    {
                        "name": "Inference-Header-Content-Length",
                        "in": "header",
                        "required": False,
                        "description": "Bytes of the JSON, where tensors follow it; 0: the body is one file.",
                        "schema": COUNT,
                    },
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref("Inference")}, "application/octet-stream": binary},
                },
                "responses": {
                    "200": {
                        "description": "OK",
                        "content": {
                            "application/json": {"schema": _ref("Inferred")},
                            "application/octet-stream": binary,
                        },
                    },
                    **_refusals(*CHECKED, 404, 413, 415, 429, 500, 503, 504, schema="ProblemV2"),
                },
            },
        }
    return found


def described(models: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The whole document, of a service of these models."""
    components: Schema = {"schemas": SCHEMAS}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "mlpmixer",
            "version": __version__,
            "description": f"Image classification. A request may have {settings.max_body:,} bytes.",
        },
        "paths": {
            "/v1/predict": _answers("The likeliest labels of images", "Prediction"),
            "/v1/embed": _answers("Embeddings of images", "Embedding"),
            "/v1/explain": _answers("What a prediction depends on: a heat map", "Explanation"),
            "/v1/models": _get("The models, and what they are", _json(_object({"models": _list(_ref("Model"))}))),
            "/healthz": _watched("Whether the service works; if not, restart it", PLAIN, "Problem"),
            "/readyz": _watched("Whether the service takes requests", PLAIN, "Problem"),
            "/metrics": _get("For Prometheus", {"description": "OK", "content": PLAIN}),
            **_v2(models),
        },
        "components": components,
    }
    if settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found
