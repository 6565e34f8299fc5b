"""A webhook: the event as JSON in a signed POST request, to an address that was judged before.

Headers and signature follow the Standard Webhooks specification, for which receivers have libraries in most languages.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import ipaddress
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.handlers.addresses import Address, Network, Resolver, permitted, resolve
from connectors.handlers.secret import Secret
from streamproc.errors import InputError
from streamproc.event_time import Span, span_us
from streamproc.reaction import Event, GiveUp, TryLater

_OWN_PREFIX: Final = "whsec_"
_PASSING: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts each event's envelope; a 2xx answer means that it was taken. A JSON object in the answer is returned.

    url             https, a `Secret` where the URL itself is one; no redirect is followed
    secret          signs each request, time included: receivers refuse what is old or was changed. "whsec_" and Base64,
                    or any text, whose UTF-8 bytes are the key
    timeout         from the name's resolution to the answer's last byte
    allow_networks  networks beside the public internet, such as "10.1.0.0/16"; http is permitted for them alone
    authorities     a file of certificates (PEM) to trust instead of the usual ones
    headers         further ones
    most_sent, most_read  bytes of a request's and of an answer's body; a larger event is given up, a larger answer
                    failed

    Requests carry `webhook-id` and `Idempotency-Key`, both the event's id and equal at each attempt,
    `webhook-timestamp` and `webhook-signature`. A status of 408, 425, 429 or 5xx is tried again, not before what
    `Retry-After` asks for; any other one is given up. Messages name the host, never path or query.
    Raises InputError for a network that is none.

    >>> Webhook("https://hooks.example.com/alerts", secret=Secret(env="HOOK_SECRET")).timeout
    '10s'
    """

    url: str | Secret
    secret: Secret | None = None
    timeout: Span = field(default="10s", kw_only=True)
    allow_networks: tuple[str, ...] = field(default=(), kw_only=True)
    authorities: str = field(default="", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    most_sent: int = field(default=1 << 20, kw_only=True)
    most_read: int = field(default=1 << 16, kw_only=True)
    resolver: Resolver = field(default=resolve, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        span_us(self.timeout)
        self._networks()

    def __repr__(self) -> str:
        return f"Webhook({self.url!r})" if isinstance(self.url, Secret) else "Webhook(...)"

    def check(self) -> None:
        """Raises InputError for a secret that is not there and for a URL that no request can go to."""
        if self.secret is not None:
            self._key()
        self._target()
        _trust(self.authorities)

    async def __call__(self, event: Event) -> Any:
        """Posts one event; raises GiveUp or TryLater where it was not taken."""
        import httpx

        target = self._target()
        body = event.envelope()
        if len(body) > self.most_sent:
            raise GiveUp(f"the event is {len(body):,} bytes large, and {self.most_sent:,} may be sent")
        try:
            async with asyncio.timeout(span_us(self.timeout) / 1e6):
                port = target.port or {"https": 443, "http": 80}[target.scheme]
                found = await permitted(target.host, port, allowed=self._networks(), resolver=self.resolver)
                addresses, ours = found
                if target.scheme != "https" and not ours:
                    raise GiveUp(f"'{target.host}' is asked by http", hint="use https, or name it in allow_networks")
                for address in addresses[:-1]:
                    with contextlib.suppress(httpx.ConnectError):
                        return await self._post(target, address, event.id, body)
                return await self._post(target, addresses[-1], event.id, body)
        except TimeoutError:
            raise TryLater(f"'{target.host}' did not answer within {self.timeout}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TryLater(f"'{target.host}' did not answer: {type(error).__name__}") from None

    async def _post(self, target: Any, address: Address, id_: str, body: bytes) -> Any:
        import httpx

        # A proxy of the environment would resolve the name again, and so would httpx: it gets the address, and the
        # name only for the Host header and for what the certificate must say.
        headers = {**self.headers, **self._signed(id_, body), "Host": target.netloc.decode("ascii")}
        async with (
            httpx.AsyncClient(
                verify=_trust(self.authorities),
                trust_env=False,
                follow_redirects=False,
                timeout=span_us(self.timeout) / 1e6,
            ) as client,
            client.stream(
                "POST",
                target.copy_with(host=str(address)),
                content=body,
                headers=headers,
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            if not 200 <= response.status_code < 300:
                raise _refusal(target.host, response)
            return await self._answer(target.host, response)

    async def _answer(self, host: str, response: Any) -> Any:
        import orjson

        read = bytearray()
        # As it comes, before any decompression: a small answer cannot become a large one.
        async for part in response.aiter_raw():
            read += part
            if len(read) > self.most_read:
                raise GiveUp(f"the answer of '{host}' is larger than {self.most_read:,} bytes")
        if "json" not in response.headers.get("content-type", "") or "content-encoding" in response.headers:
            return None
        try:
            answer = orjson.loads(bytes(read))
        except orjson.JSONDecodeError:
            return None
        return answer if isinstance(answer, dict) else None

    def _signed(self, id_: str, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "idempotency-key": id_,
            "webhook-id": id_,
            "webhook-timestamp": now,
        }
        if self.secret is not None:
            digest = hmac.new(self._key(), f"{id_}.{now}.".encode() + body, hashlib.sha256).digest()
            headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode("ascii")
        return headers

    def _key(self) -> bytes:
        assert self.secret is not None, "only a webhook with a secret signs"
        text = self.secret.reveal()
        if not text.startswith(_OWN_PREFIX):
            return text.encode()
        try:
            return base64.b64decode(text.removeprefix(_OWN_PREFIX), validate=True)
        except binascii.Error:
            raise InputError(f"{self.secret} begins with '{_OWN_PREFIX}' and is no Base64", hint="mend it") from None

    def _target(self) -> Any:
        import httpx

        text = self.url.reveal() if isinstance(self.url, Secret) else self.url
        try:
            target = httpx.URL(text)
        except httpx.InvalidURL:
            raise InputError("the URL of a webhook cannot be read", hint="write https://host/path") from None
        if target.scheme not in ("https", "http") or not target.host:
            raise InputError("the URL of a webhook is no web address", hint="write https://host/path")
        if target.userinfo:
            raise InputError(
                f"the URL of the webhook at '{target.host}' has a name or password in it", hint="give them as a header"
            )
        return target

    def _networks(self) -> tuple[Network, ...]:
        try:
            return tuple(ipaddress.ip_network(text) for text in self.allow_networks)
        except ValueError as error:
            raise InputError(f"allow_networks of a webhook: {error}", hint='write networks as "10.1.0.0/16"') from None


@functools.cache
def _trust(authorities: str) -> ssl.SSLContext:
    """Loading certificates takes milliseconds: once a process."""
    import httpx

    try:
        return (
            ssl.create_default_context(cafile=authorities) if authorities else httpx.create_ssl_context(trust_env=False)
        )
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the certificates in '{authorities}' cannot be read: {error}", hint="name a PEM file"
        ) from None


def _refusal(host: str, response: Any) -> GiveUp | TryLater:
    status = response.status_code
    if status not in _PASSING and status < 500:
        return GiveUp(f"'{host}' refused the event with status {status}")
    asked = response.headers.get("retry-after", "")
    after = f"{asked}s" if asked.isascii() and asked.isdigit() and len(asked) < 7 else "0s"
    return TryLater(f"'{host}' answered with status {status}", after=after)
