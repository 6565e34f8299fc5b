"""E-mail by SMTP: one message for each event."""

from __future__ import annotations

import asyncio
import hashlib
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Final, Literal

from connectors.handlers.secret import Secret
from streamproc.errors import InputError
from streamproc.event_time import Span, instant_text, span_us
from streamproc.reaction import Event, GiveUp, TryLater

_SUBJECT: Final = 200


@dataclass(frozen=True, slots=True)
class Email:
    """Sends each event as a message of text with the row's columns, a line each.

    host, port      of the mail server
    sender, to      addresses
    subject         its braces are filled with the row's columns, and with {topic} and {id}
    user, password  where the server wants them; never sent over a connection without TLS
    tls             "starttls", "tls" from the first byte, or "none" for a server on a network that is trusted
    timeout         of each answer of the server

    The Message-ID is made of the event's id: mail programs show a repetition once. An answer of 5xx is given up, any
    other failure tried again.
    Raises InputError for settings that do not fit together.

    >>> Email("mail.example.com", sender="alerts@example.com", to=("ops@example.com",), subject="{severity} alert").port
    587
    """

    host: str
    port: int = 587
    sender: str = field(kw_only=True)
    to: tuple[str, ...] = field(kw_only=True)
    subject: str = field(default="alert from {topic}", kw_only=True)
    user: str = field(default="", kw_only=True)
    password: Secret | None = field(default=None, kw_only=True)
    tls: Literal["starttls", "tls", "none"] = field(default="starttls", kw_only=True)
    timeout: Span = field(default="20s", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.to, str) or not self.to:
            raise InputError("an e-mail needs a list of addresses", hint='write to=("ops@example.com",)')
        if self.tls not in ("starttls", "tls", "none"):
            raise InputError(f"tls='{self.tls}' of an e-mail", hint="use 'starttls', 'tls' or 'none'")
        if bool(self.user) != (self.password is not None):
            raise InputError("an e-mail with one of user and password", hint="give both or neither")
        if self.password is not None and self.tls == "none":
            raise InputError("a password over a connection without TLS", hint="use tls='starttls' or 'tls'")
        if any(bad in address for address in (self.sender, *self.to) for bad in "\r\n"):
            raise InputError("an address with a line break", hint="write name@example.com")
        span_us(self.timeout)

    def check(self) -> None:
        """Raises InputError for a password that is not there."""
        if self.password is not None:
            self.password.reveal()

    async def __call__(self, event: Event) -> None:
        """Sends one message; raises GiveUp or TryLater where the server did not take it for every address."""
        await asyncio.to_thread(self._send, self._message(event))

    def _message(self, event: Event) -> EmailMessage:
        message = EmailMessage()
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Subject"] = _one_line(self._filled(event))
        domain = _one_line(self.sender.rpartition("@")[2].rstrip(">")) or "localhost"
        message["Message-ID"] = f"<{hashlib.sha256(event.id.encode()).hexdigest()[:32]}@{domain}>"
        message["Date"] = _date(event)
        message["X-Event-Id"] = _one_line(event.id)
        lines = [f"{name}: {value}" for name, value in event.row.items()]
        place = f"{event.topic}-{event.partition}, offset {event.offset}, {instant_text(event.recorded_at)}"
        message.set_content("\n".join([*lines, "", f"from {place}", f"id {event.id}", ""]))
        return message

    def _filled(self, event: Event) -> str:
        try:
            return self.subject.format_map({**event.row, "topic": event.topic, "id": event.id})
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise GiveUp(f"the subject '{self.subject}' does not fit the row: {error!r}") from None

    def _send(self, message: EmailMessage) -> None:
        seconds = span_us(self.timeout) / 1e6
        context = ssl.create_default_context()
        try:
            with (
                smtplib.SMTP_SSL(self.host, self.port, timeout=seconds, context=context)
                if self.tls == "tls"
                else smtplib.SMTP(self.host, self.port, timeout=seconds)
            ) as server:
                if self.tls == "starttls":
                    server.starttls(context=context)
                if self.password is not None:
                    server.login(self.user, self.password.reveal())
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            raise _refusal(error.recipients) from None
        except smtplib.SMTPResponseException as error:
            text = f"the mail server answered {error.smtp_code}"
            raise (GiveUp(text) if error.smtp_code >= 500 else TryLater(text)) from None
        except (smtplib.SMTPException, OSError) as error:
            raise TryLater(f"the mail server '{self.host}' did not take it: {type(error).__name__}") from None
        if refused:
            raise _refusal(refused)


def _refusal(recipients: dict[str, tuple[int, bytes]]) -> GiveUp | TryLater:
    codes = sorted({code for code, _ in recipients.values()})
    text = f"the mail server refused {len(recipients)} of the addresses with {', '.join(map(str, codes))}"
    return GiveUp(text) if all(code >= 500 for code in codes) else TryLater(text)


def _one_line(text: str) -> str:
    """Without control characters: what a row says cannot add a header."""
    return "".join(char if char.isprintable() else " " for char in text)[:_SUBJECT]


def _date(event: Event) -> str:
    from email.utils import formatdate

    return formatdate(event.recorded_at / 1e6)
