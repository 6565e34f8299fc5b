"""Requests to a schema registry: each one bounded in time and size, and tried again where that may help.

A registry says "no such schema" with codes of its own (40401 and following). Only these are taken as its word: a 404 of
a proxy, or of a URL that leads elsewhere, must not turn every record into a dead letter.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from connectors.handlers.secret import Secret
from streamproc.errors import (
    ContractError,
    IncompatibleEvolution,
    InputError,
    InvalidSchema,
    RegistryUnavailable,
)

_KIND: Final = "application/vnd.schemaregistry.v1+json"
_PHASE_S: Final = 2.0
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_UNKNOWN: Final = range(40400, 40500)
_MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """Where a registry is and how to get in.

    url         of its REST interface, for example "https://registry.example.com"
    user        for basic authentication, "" for none; the password is a secret by reference
    authorities a file of certificates (PEM) to trust instead of the usual ones
    subject     the subject of a contract, with "{contract}" for its name: "{contract}-value" is what other tools expect
                where each topic is named like its contract
    patience_s  how long a request is tried again before RegistryUnavailable

    Raises InputError for a URL that is none, credentials in it, or a password that would travel unencrypted.
    """

    url: str
    user: str = ""
    password: Secret | None = field(default=None, repr=False)
    authorities: str = ""
    subject: str = "{contract}"
    patience_s: float = 4.0

    def __post_init__(self) -> None:
        try:
            target = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise InputError("the URL of the schema registry cannot be read", hint="write https://host/path") from None
        if target.scheme not in ("https", "http") or not target.host:
            raise InputError("the URL of the schema registry is no web address", hint="write https://host/path")
        if target.userinfo:
            raise InputError(
                f"the URL of the schema registry at '{target.host}' has a name or password in it",
                hint='give user and password = { env = "NAME" } beside it',
            )
        if bool(self.user) != (self.password is not None):
            raise InputError(
                f"the schema registry at '{target.host}' has a user without a password, or a password without a user",
                hint="give both or none",
            )
        if self.user and target.scheme == "http" and not _is_here(target.host):
            raise InputError(
                f"the password for the schema registry at '{target.host}' would travel unencrypted", hint="use https"
            )
        around = self.subject.replace("{contract}", "", 1)
        if "{contract}" not in self.subject or "{" in around or "}" in around:
            raise InputError(
                f"the subject '{self.subject}' does not hold {{contract}} once",
                hint='write subject = "{contract}-value"',
            )

    def subject_of(self, contract: str) -> str:
        """The subject of a contract's name.

        >>> RegistryAccess("https://r.example.com", subject="{contract}-value").subject_of("payment")
        'payment-value'
        """
        return self.subject.replace("{contract}", contract)

    def contract_of(self, subject: str) -> str:
        """The contract's name of a subject, "" where the subject is of another form."""
        before, _, after = self.subject.partition("{contract}")
        long_enough = len(subject) > len(before) + len(after)
        fits = long_enough and subject.startswith(before) and subject.endswith(after)
        return subject[len(before) : len(subject) - len(after)] if fits else ""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """One version of a subject: its number there, its id and its text."""

    version: int
    schema_id: int
    text: str


class _Passing(Exception):
    """A failure after which the same request may succeed."""


class RegistryClient:
    """The requests that are needed, one at a time. Raises, besides what each one says:

    RegistryUnavailable  nobody answered within the patience
    InputError           the registry refused the user, or what answers is no schema registry
    """

    def __init__(self, access: RegistryAccess) -> None:
        self.access = access
        credentials = None if access.password is None else httpx.BasicAuth(access.user, access.password.reveal())
        self._http = httpx.Client(
            base_url=access.url.rstrip("/") + "/",
            auth=credentials,
            verify=_trust(access.authorities) if access.url.startswith("https") else False,
            headers={"content-type": _KIND, "accept": f"{_KIND}, application/json"},
            timeout=_PHASE_S,
            trust_env=False,
        )

    def close(self) -> None:
        """Lets go of connections."""
        self._http.close()

    def subjects(self) -> list[str]:
        """All subjects, sorted."""
        return sorted(str(name) for name in self._list(self._ask("GET", "subjects")))

    def versions(self, subject: str) -> list[int]:
        """The numbers of a subject's versions, ascending; empty where there is no such subject."""
        return sorted(int(number) for number in self._list(self._ask("GET", f"subjects/{_quoted(subject)}/versions")))

    def version(self, subject: str, number: int) -> RegisteredSchema | None:
        """One version of a subject, None if it is not there."""
        found = self._ask("GET", f"subjects/{_quoted(subject)}/versions/{number}")
        return None if found is None else RegisteredSchema(number, self._id(found), self._avro(found))

    def history(self, subject: str) -> list[RegisteredSchema]:
        """All versions of a subject, oldest first; one request each."""
        found = (self.version(subject, number) for number in self.versions(subject))
        return [version for version in found if version is not None]

    def schema(self, schema_id: int) -> str | None:
        """The Avro schema that has an id, as text; None where the registry knows none. InvalidSchema for no Avro."""
        found = self._ask("GET", f"schemas/ids/{schema_id}")
        return None if found is None else self._avro(found)

    def find(self, subject: str, text: str) -> int | None:
        """The id that a schema has under a subject, None if it is not registered there."""
        found = self._ask("POST", f"subjects/{_quoted(subject)}", {"schema": text})
        return None if found is None else self._id(found)

    def register(self, subject: str, text: str) -> int:
        """Registers a schema, or finds it, and gives its id; IncompatibleEvolution or InvalidSchema if refused."""
        found = self._ask("POST", f"subjects/{_quoted(subject)}/versions", {"schema": text})
        if found is None:
            raise self._strange("it does not know how to register")
        return self._id(found)

    def refusal(self, subject: str, text: str) -> str:
        """Why the registry would refuse a schema as the subject's next version, "" if it would not."""
        path = f"compatibility/subjects/{_quoted(subject)}/versions"
        found = self._ask("POST", path, {"schema": text}, {"verbose": "true"})
        if found is None or (isinstance(found, Mapping) and found.get("is_compatible") is True):
            return ""
        if not isinstance(found, Mapping) or found.get("is_compatible") is not False:
            raise self._strange("its answer on compatibility has another form")
        reasons = found.get("messages") or [found.get("reason") or "it does not say why"]
        return "; ".join(str(reason) for reason in reasons)

    def mode(self, subject: str) -> str:
        """The compatibility mode set for a subject, "" where the registry's general one holds."""
        found = self._ask("GET", f"config/{_quoted(subject)}")
        return str(found.get("compatibilityLevel", "")) if isinstance(found, Mapping) else ""

    def general_mode(self) -> str:
        """The mode of subjects that set none."""
        found = self._ask("GET", "config")
        return str(found.get("compatibilityLevel", "")) if isinstance(found, Mapping) else ""

    def set_mode(self, subject: str, mode: str) -> bool:
        """Sets the mode of a subject; False where the registry has nothing that it could set it for."""
        return self._ask("PUT", f"config/{_quoted(subject)}", {"compatibility": mode}) is not None

    def _ask(self, verb: str, path: str, body: Any = None, parameters: Mapping[str, str] | None = None) -> Any:
        """The answer as JSON value, None for "there is no such thing"; tried again while that may help."""
        attempts = Retrying(
            stop=stop_after_delay(self.access.patience_s),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )
        try:
            return attempts(self._once, verb, path, body, parameters)
        except _Passing as why:
            raise RegistryUnavailable(
                f"the schema registry at '{self.access.url}' does not answer: {why}",
                hint="start it or mend url in [registry]; nothing was lost, the next start goes on",
            ) from None

    def _once(self, verb: str, path: str, body: Any, parameters: Mapping[str, str] | None) -> Any:
        content = None if body is None else json.dumps(body)
        until = time.monotonic() + self.access.patience_s
        try:
            with self._http.stream(verb, path, content=content, params=parameters) as response:
                read = bytearray()
                for part in response.iter_bytes():
                    read += part
                    if len(read) > _MOST_BYTES:
                        raise self._strange(f"its answer is larger than {_MOST_BYTES:,} bytes")
                    if time.monotonic() > until:
                        raise _Passing("its answer does not end")
        except httpx.ConnectError as error:
            raise self._unconnected(error) from None
        except httpx.TransportError as error:
            raise _Passing(type(error).__name__) from None
        return self._judged(response, bytes(read))

    def _judged(self, response: httpx.Response, content: bytes) -> Any:
        status = response.status_code
        if status in _PASSING:
            raise _Passing(f"status {status}")
        if status in (401, 403):
            who = f"the user '{self.access.user}'" if self.access.user else "requests without a user"
            raise InputError(
                f"the schema registry at '{self.access.url}' refuses {who} with status {status}",
                hint="mend user and password in [registry]",
            )
        try:
            answer = json.loads(content)
        except ValueError:
            raise self._strange(f"status {status} without JSON") from None
        if 200 <= status < 300:
            return answer
        code = answer.get("error_code") if isinstance(answer, Mapping) else None
        said = str(answer.get("message", "")) if isinstance(answer, Mapping) else ""
        if status == 404 and code in _UNKNOWN:
            return None
        if status == 409:
            raise IncompatibleEvolution(f"the schema registry at '{self.access.url}' refuses it: {said}")
        if status == 422:
            raise InvalidSchema(f"the schema registry at '{self.access.url}' refuses it: {said}")
        raise self._strange(f"status {status}, {said or 'no reason given'}")

    def _unconnected(self, error: httpx.ConnectError) -> Exception:
        # A certificate that is not trusted now will not be trusted in a second: that is no reason to wait.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return InputError(
                    f"the certificate of the schema registry at '{self.access.url}' is not trusted: "
                    f"{cause.verify_message}",
                    hint="name the authority's certificates as ca in [registry]",
                )
            cause = cause.__cause__ or cause.__context__
        return _Passing(str(error) or type(error).__name__)

    def _strange(self, what: str) -> InputError:
        return InputError(
            f"what answers at '{self.access.url}' is no schema registry: {what}",
            hint="url in [registry] is the address below which /subjects lies",
        )

    def _list(self, found: Any) -> list[Any]:
        if found is None:
            return []
        if not isinstance(found, list):
            raise self._strange("a list was expected")
        return found

    def _id(self, found: Any) -> int:
        schema_id = found.get("id") if isinstance(found, Mapping) else None
        if type(schema_id) is not int or not 0 <= schema_id < 1 << 32:
            raise self._strange("an answer has no id")
        return schema_id

    def _avro(self, found: Any) -> str:
        if not isinstance(found, Mapping) or not isinstance(found.get("schema"), str):
            raise self._strange("an answer has no schema")
        kind = found.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise InvalidSchema(f"it is {kind}, not Avro", hint="register an Avro schema for these records")
        if found.get("references"):
            raise InvalidSchema("it refers to other subjects", hint="register it with all its types written out")
        return str(found["schema"])


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trust(authorities: str) -> ssl.SSLContext:
    try:
        return (
            ssl.create_default_context(cafile=authorities) if authorities else httpx.create_ssl_context(trust_env=False)
        )
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the certificates in '{authorities}' cannot be read: {error}", hint="name a PEM file"
        ) from None


def not_here(access: RegistryAccess) -> ContractError:
    """What is raised where somebody would write at run time."""
    return ContractError(
        f"nothing is registered at '{access.url}' while a topology runs",
        hint="run 'streamproc contracts push' where contracts are released",
    )
