"""Secrets in text: what may not reach a log, a page, MLflow or Prefect.

A secret is what stands before the `@` of an address, the value of a query key that says so (`?token=`), and the value of
an environment variable whose name says so (`HF_TOKEN`).
"""

import os
import re
from collections.abc import Sequence

MARK = "***"
# C0, DEL and C1, separators of lines and paragraphs, what turns the direction of text, halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A password that was not encoded may hold anything but a blank or a quote, and ends at the last `@`.
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/:@'\"<>]*:[^\s'\"<>]*|[^\s/?#'\"<>]*)@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|secret|passw|pwd|key|sig|credential|auth)[\w.-]*=)[^&;\s'\"<>#]+", re.IGNORECASE
)
_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH_STRING|API_KEY|ACCESS_KEY|PRIVATE_KEY)(?:_|$)"
)
# Shorter values are words of their own in any text, and no secrets.
SHORTEST = 6


def redacted(text: str, values: Sequence[str] | None = None) -> str:
    """`text` with a mark in place of every secret that it is known to hold.

    values: those of `secret_values`, for one who has many texts; None looks them up.
    """
    for value in secret_values() if values is None else values:
        text = text.replace(value, MARK)
    if "://" in text:
        text = _USER.sub(rf"\g<1>{MARK}@", text)
    return _QUERY.sub(rf"\g<1>{MARK}", text) if "=" in text else text


def one_line(said: object) -> str:
    """An error, or a text, as a line for a terminal: without secrets, and without characters that a terminal obeys."""
    return redacted(CONTROL.sub("?", " ".join(str(said).split())))


def without_user(address: str) -> str:
    """An address that a browser can be sent to: it asks for the credentials itself."""
    return _USER.sub(r"\g<1>", address)


def refuse_secrets(text: str) -> None:
    """ValueError where `text` holds credentials: parameters are recorded by git, DVC, MLflow and the model card."""
    if _USER.search(text) or _QUERY.search(text):
        raise ValueError(
            "holds the credentials of an address, which git, DVC and MLflow would record; leave them to the environment "
            "or to a configuration file of the storage's own"
        )


def secret_values() -> list[str]:
    """The values of variables that are secret by their names; the longest first, for one may be part of another."""
    found = {value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= SHORTEST}
    return sorted(found, key=len, reverse=True)
