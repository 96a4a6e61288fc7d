"""/docs: the API's description to look at and try out.

The page's program comes from a public host (cdn.jsdelivr.net), the only one that its policy allows beside ours.
"""

import hashlib
import re
from base64 import b64encode

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse

_SOURCE = "https://cdn.jsdelivr.net"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def _policy(page: str) -> str:
    """Only the scripts that the page has now, and requests to nobody but us."""
    digests = [b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _INLINE_SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {_SOURCE} {scripts}; style-src {_SOURCE} 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )


def install(app: FastAPI) -> None:
    """Adds the page. The application must have been made with `docs_url=None`."""
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "", title=f"{app.title} {app.version}", swagger_favicon_url="data:,"
    )
    policy = _policy(bytes(page.body).decode())

    async def docs(_request: Request) -> HTMLResponse:
        return HTMLResponse(page.body, headers={"Content-Security-Policy": policy})

    app.add_route("/docs", docs, include_in_schema=False)
