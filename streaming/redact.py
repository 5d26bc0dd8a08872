"""Camera addresses without their passwords, for logs, errors and status pages."""

import re

_SECRET_QUERY = re.compile(r"(?i)([?&;][^=&;#\s]*(?:pass|pwd|token|key|secret|auth|sig)[^=&;#\s]*=)[^&;#\s]*")


def redact(url: str) -> str:
    """`rtsp://user:pw@host/a?password=b` -> `rtsp://***@host/a?password=***`.

    Everything from the scheme to the last `@` before the query counts as credentials, so that a password with an
    unescaped `@` or `/` in it is not shown either.
    """
    scheme, separator, rest = url.partition("://")
    if separator:
        # A password may even hold "?": cut at the last "@" of the whole address unless it lies in a real query.
        path, question, query = rest.partition("?")
        if "@" in path:
            rest = "***@" + path.rpartition("@")[2] + question + query
        elif "@" in query and "/" not in path:
            rest = "***@" + query.rpartition("@")[2]
    return _SECRET_QUERY.sub(r"\1***", scheme + separator + rest)
