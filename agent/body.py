"""Reading a request's body without trusting its size."""

from starlette.requests import ClientDisconnect, Request

from agent.problems import BadRequest, TooLarge


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The body. Raises TooLarge as soon as it is known to exceed `limit_bytes`."""
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise _too_large(limit_bytes)
    except ClientDisconnect:
        raise BadRequest("The connection ended before the whole request had come.") from None
    return bytes(body)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The request is larger than {limit_bytes} bytes.", headers={"Connection": "close"})
