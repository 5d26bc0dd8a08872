"""What can be wrong with a medium that the user names; every message says what to do."""

from streaming.redact import redact_text


class MediaError(Exception):
    """The medium cannot be used; the message says why and what to do, with no password of an address in it."""

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


class MediaNotFound(MediaError):
    """No such file or device."""


class MediaUnreadable(MediaError):
    """It is there but holds no video that can be decoded."""


class MediaDamaged(MediaError):
    """It stopped before its declared end; the frames before the damage were delivered."""


class MediaLost(MediaError):
    """A live camera cannot be reached or stopped sending. Reconnecting is the source's own work."""


class MediaStalled(MediaLost):
    """A live camera is connected but sent nothing for `stall_timeout_s`."""


class AddressUnknown(MediaError, ValueError):
    """The address is none that can be opened."""


class PictureTooLarge(MediaError):
    """The camera sends frames of more pixels than are taken."""
