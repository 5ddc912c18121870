"""Secrets in text, which must not reach a log, a page, MLflow or Prefect.

A secret is the part of an address before its `@`, the value of a query key such as `?token=`, and the value of an environment
variable with a name such as `HF_TOKEN`.
"""

import os
import re
from collections.abc import Sequence

MARK = "***"
# C0, DEL and C1, line and paragraph separators, direction marks, halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# An unencoded password may hold anything but blanks and quotes; it ends at the last `@`.
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/:@'\"<>]*:[^\s'\"<>]*|[^\s/?#'\"<>]*)@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|secret|passw|pwd|key|sig|credential|auth)[\w.-]*=)[^&;\s'\"<>#]+", re.IGNORECASE
)
_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH_STRING|API_KEY|ACCESS_KEY|PRIVATE_KEY)(?:_|$)"
)
# Shorter values are no secrets: they occur in any text.
SHORTEST = 6


def redacted(text: str, values: Sequence[str] | None = None) -> str:
    """`text` with every known secret replaced by `MARK`.

    values: the result of `secret_values`, to look it up once for many texts; None looks it up now.
    """
    for value in secret_values() if values is None else values:
        text = text.replace(value, MARK)
    if "://" in text:
        text = _USER.sub(rf"\g<1>{MARK}@", text)
    return _QUERY.sub(rf"\g<1>{MARK}", text) if "=" in text else text


def one_line(message: object) -> str:
    """A text, or an error (by its name if it has no text), as one line for a terminal, without secrets and control characters."""
    words = " ".join(str(message).split())
    return redacted(CONTROL.sub("?", words or (type(message).__name__ if isinstance(message, BaseException) else "")))


def without_user(address: str) -> str:
    """An address without credentials, for a browser, which asks for them itself."""
    return _USER.sub(r"\g<1>", address)


def refuse_secrets(text: str) -> None:
    """ValueError if `text` holds credentials: git, DVC, MLflow and the model card record parameters."""
    if _USER.search(text) or _QUERY.search(text):
        raise ValueError(
            "holds the credentials of an address, which git, DVC and MLflow would record; put them in the environment "
            "or in the configuration file of the store"
        )


def secret_values() -> list[str]:
    """Values of the environment variables with secret names, longest first, since one may be part of another."""
    values = {value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)
