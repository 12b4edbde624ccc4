"""The page for people, at /: one HTML document that loads nothing and talks to this service only."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mlpmixer.draw.page import PALETTE
from mlpmixer.serve.service import Settings

# What of a browser's powers the page has: the camera, for photos that a person takes.
POWERS = "camera=(self), microphone=(), geolocation=(), display-capture=(), usb=()"


def document(settings: Settings) -> tuple[str, str]:
    """The page with its style and script inside, and the policy that lets these two run and nothing else."""
    folder = files("mlpmixer.serve") / "web"
    text, style, script = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    style = PALETTE + style
    parts = {
        '<link rel="stylesheet" href="page.css">': f"<style>{style}</style>",
        '<script type="module" src="page.js"></script>': f'<script type="module">{script}</script>',
        'data-max-body=""': f'data-max-body="{settings.max_body}"',
    }
    for mark, part in parts.items():
        text = text.replace(mark, part, 1)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",  # text that is set as HTML is an error
        "trusted-types": "'none'",
    }
    return text, "; ".join(f"{name} {allowed}" for name, allowed in policy.items())


def page_route(settings: Settings) -> Route:
    """GET /."""
    text, policy = document(settings)
    headers = {
        "Content-Security-Policy": policy,
        "Permissions-Policy": POWERS,
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }

    async def page(_request: Request) -> Response:
        return HTMLResponse(text, headers=headers)

    return Route("/", page, methods=["GET"])  # and HEAD


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
