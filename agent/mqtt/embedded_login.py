"""The embedded broker's one user, as the kind of plugin that amqtt loads by name."""

import hmac
from dataclasses import dataclass, field

from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class OneUser(BaseAuthPlugin):
    """Lets in whoever knows the configured user and password."""

    @dataclass
    class Config:
        """What amqtt hands over."""

        user: str
        password: str = field(repr=False)

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._expected = f"{self.config.user}\0{self.config.password}".encode()

    async def authenticate(self, *, session: Session) -> bool | None:
        """True for the right user and password, compared in constant time."""
        given = f"{session.username or ''}\0{session.password or ''}".encode()
        return hmac.compare_digest(given, self._expected)
