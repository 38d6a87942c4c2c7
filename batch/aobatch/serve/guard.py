"""Who may ask and how much: keys, requests and tokens a minute, and the errors of the endpoint."""

import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path

from aobatch.api.response import ID_ALPHABET, ID_LENGTH
from aobatch.errors import AobatchError, UsageError

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OTHERS_MAY_READ = 0o077


class HttpError(AobatchError):
    """What a request ends with that is no fault of its body; the fields of the error object."""

    def __init__(
        self,
        status_code: int,
        code: str | None,
        message: str,
        *,
        kind: str = "",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        own = "server_error" if status_code >= 500 else "invalid_request_error"
        self.fields = {"message": message, "type": kind or own, "param": param, "code": code}
        self.headers = dict(headers or {})


def new_id(prefix: str) -> str:
    """Draw an id of the form that OpenAI's have."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Keys:
    """The keys that clients give, as hashes; without any, everybody may ask."""

    def __init__(self, digests: Sequence[bytes] = ()) -> None:
        self._digests = digests

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None) -> str:
        """Give the name of the key of an Authorization header, for its limits; HttpError, 401."""
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            message = "Give your API key in the header `Authorization: Bearer YOUR_KEY`."
            raise _unauthorised(message)
        digest = sha256(key.encode(errors="surrogateescape")).digest()
        # All are compared, each in constant time, so that time tells nothing of any.
        matches = [compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            shown = f"ending in {key[-4:]!r} " if len(key) >= 16 else ""
            message = f"The API key {shown}is none of this server's."
            raise _unauthorised(message)
        return digest.hex()


def _unauthorised(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})


def read_keys(path: Path) -> Keys:
    """Read a file of keys, one a line, or their hashes as `sha256:HEX`; UsageError if it is wrong.

    Blank lines and those that begin with # say nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
        is_open = bool(path.stat().st_mode & _OTHERS_MAY_READ)
    except (OSError, UnicodeDecodeError) as error:
        message = f"--api-keys {path} cannot be read: {error}"
        raise UsageError(message) from error
    lines = [line.strip() for line in text.splitlines()]
    given = [line for line in lines if line and not line.startswith("#")]
    if not given:
        message = f"--api-keys {path} has no key; write one a line, or leave the option out"
        raise UsageError(message)
    plain = [line for line in given if not _DIGEST.fullmatch(line)]
    if plain and is_open:
        message = (
            f"--api-keys {path} has keys as they are, and other users may read it; chmod 600 it, "
            "or write sha256:HEX of each key"
        )
        raise UsageError(message)
    if any(len(key) < 16 or " " in key for key in plain):
        message = f"a key of --api-keys {path} has fewer than 16 characters, or a blank"
        raise UsageError(message)
    hashes = [bytes.fromhex(m[1]) for line in given if (m := _DIGEST.fullmatch(line))]
    return Keys((*hashes, *(sha256(key.encode()).digest() for key in plain)))


@dataclass(slots=True)
class Bucket:
    """What is left of a minute's allowance; it fills up evenly."""

    limit: int
    left: float = field(init=False)
    _filled: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = self.limit

    def refill(self, now: float) -> None:
        """Add what came since the last time."""
        self.left = min(self.limit, self.left + (now - self._filled) * self.limit / 60)
        self._filled = now

    def seconds_until(self, amount: float) -> float:
        """Say when so much will be there, or a whole minute's, if it is more than that."""
        return max(0.0, (min(amount, self.limit) - self.left) * 60 / self.limit)


class Limits:
    """Requests and tokens a minute of each key."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        limits = {"requests": requests, "tokens": tokens}
        self._limits = {noun: limit for noun, limit in limits.items() if limit is not None}
        self._buckets: dict[str, dict[str, Bucket]] = {}

    def admit(self, key: str, tokens: int = 0) -> dict[str, str]:
        """Take a request and what it asks for off a key's minute; give the headers that say so.

        HttpError, 429, if it is used up. More tokens than a minute's are let in when none of it
        is used.
        """
        buckets = self._of(key)
        for noun, bucket in buckets.items():
            wait = bucket.seconds_until(1 if noun == "requests" else tokens)
            if wait > 0:
                message = (
                    f"Rate limit reached: this key may use {bucket.limit} {noun} a minute. Try "
                    f"again in {wait:.3g} s."
                )
                waits = {"retry-after": f"{math.ceil(wait)}"}
                headers = headers_of(buckets) | waits
                raise HttpError(429, "rate_limit_exceeded", message, kind=noun, headers=headers)
        for noun, bucket in buckets.items():
            bucket.left -= 1 if noun == "requests" else tokens
        return headers_of(buckets)

    def settle(self, key: str, tokens: int, used: int) -> None:
        """Give back what a request did not use of the tokens that it asked for."""
        if bucket := self._of(key).get("tokens"):
            bucket.left = min(bucket.limit, bucket.left + tokens - used)

    def _of(self, key: str) -> dict[str, Bucket]:
        if key not in self._buckets:
            self._buckets[key] = {noun: Bucket(limit) for noun, limit in self._limits.items()}
        for bucket in self._buckets[key].values():
            bucket.refill(time.monotonic())
        return self._buckets[key]


def headers_of(buckets: Mapping[str, Bucket]) -> dict[str, str]:
    """Write the headers that OpenAI's answers have."""
    headers = {}
    for noun, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{noun}"] = str(bucket.limit)
        headers[f"x-ratelimit-remaining-{noun}"] = str(max(0, math.floor(bucket.left)))
        headers[f"x-ratelimit-reset-{noun}"] = f"{bucket.seconds_until(bucket.limit):.3f}s"
    return headers
