"""Settings of webhooks: where alert events are posted, and the key that signs them."""

import base64
import binascii
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from agent.settings.types import Part, UserPath, address_parts

_SECRET_PREFIX = "whsec_"
_MIN_SECRET_CHARS = 16


def check_webhook_url(given: SecretStr) -> SecretStr:
    """Return `given`, the URL of a webhook, unchanged if it is valid. Raises ValueError."""
    url = given.get_secret_value()
    parts = address_parts(url)
    is_plain = all(character.isprintable() and not character.isspace() for character in url)
    if parts is None or parts.username is not None or parts.fragment or not is_plain:
        raise ValueError("must be an address such as https://example.org/alerts, without user and password in it")
    return given


def signing_key(secret: str) -> bytes:
    """Return the signing key that a secret stands for. Raises ValueError.

    After "whsec_" the key follows in base64. In any other secret, the key is the text itself.
    """
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"the part after {_SECRET_PREFIX} must be base64") from None


def check_secret(secret: SecretStr) -> SecretStr:
    """Return a secret for signing events unchanged if it is valid. Raises ValueError."""
    text = secret.get_secret_value()
    if text.startswith(_SECRET_PREFIX):
        signing_key(text)
    if len(text) < _MIN_SECRET_CHARS:
        raise ValueError(f"a secret has at least {_MIN_SECRET_CHARS} characters")
    return secret


class WebhookSettings(Part):
    """One webhook: a URL that receives alert events, and the secret that signs them."""

    url: Annotated[SecretStr, AfterValidator(check_webhook_url)] = Field(
        description="address events are posted to; never logged"
    )
    secret: Annotated[SecretStr, AfterValidator(check_secret)] | None = Field(
        default=None, description="key of the signature; null: unsigned"
    )
    secret_file: UserPath | None = Field(default=None, description="file with the key, read at every try")

    @model_validator(mode="after")
    def _one_secret(self) -> "WebhookSettings":
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("give either secret or secret_file, not both")
        return self

    def key(self) -> bytes | None:
        """Return the signing key, read from its file if one is configured. None if events are not signed.

        Raises OSError if the file cannot be read, or ValueError if its content is no key.
        """
        if self.secret_file is not None:
            return signing_key(Path(self.secret_file).read_text(encoding="utf-8").strip())
        return None if self.secret is None else signing_key(self.secret.get_secret_value())
