"""Why a row of a list could not be had, in a few words that can be counted."""


class FetchError(Exception):
    """A row that failed.

    Args:
        cause: short and the same for all rows that failed alike.
        detail: what happened to this one.
        again: another try may help.
        after: seconds that the server asks to wait before the next try.
        status: of the server's answer.
    """

    def __init__(
        self, cause: str, detail: str, *, again: bool = False, after: float | None = None, status: int = 0
    ) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail = cause, detail
        self.again, self.after, self.status = again, after, status


class MediumProblemError(FetchError):
    """What came cannot be stored: no picture, broken, too small, ..."""
