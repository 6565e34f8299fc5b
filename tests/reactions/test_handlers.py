"""Handlers that ship, against real servers and programs."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import hashlib
import hmac
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from events import event
from serving import Request, mail_server, web_server

from connectors.handlers import Command, Email, JsonLines, Secret, Webhook
from streamproc.errors import DefinitionError, InputError
from streamproc.reaction import GiveUp, TryLater
from streamproc.runtime.reactions.definition import Breaker, Reaction, Reactions, Retry

HERE = ("127.0.0.1/32",)


def test_a_webhook_is_signed_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + base64.b64encode(b"of the receiver").decode())
    with web_server() as server:
        hook = Webhook(server.url("/alerts?x=1"), Secret(env="HOOK_SECRET"), allow_networks=HERE)
        asyncio.run(hook(event()))
    (request,) = server.requests
    assert request.path == "/alerts?x=1"
    assert request.json == {
        "id": "a1b2", "topic": "alerts", "partition": 0, "offset": 17, "recorded_at": "2023-11-14T22:13:20Z",
        "row": {"number": 7, "service": "till"},
    }  # fmt: skip
    sent = request.headers
    assert sent["webhook-id"] == sent["idempotency-key"] == "a1b2"
    assert abs(int(sent["webhook-timestamp"]) - time.time()) < 60
    signed = b".".join((b"a1b2", sent["webhook-timestamp"].encode(), request.body))
    digest = base64.b64encode(hmac.new(b"of the receiver", signed, hashlib.sha256).digest()).decode()
    assert sent["webhook-signature"] == f"v1,{digest}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 300, 304])
def test_what_another_attempt_cannot_mend_is_given_up(status: int) -> None:
    with web_server() as server:
        server.reply = lambda request: (status, {}, b"")
        with pytest.raises(GiveUp, match=str(status)):
            asyncio.run(Webhook(server.url(), allow_networks=HERE)(event()))


@pytest.mark.parametrize(("status", "headers", "after"), [
    (500, {}, 0), (503, {"Retry-After": "7"}, 7_000_000), (429, {"Retry-After": "2"}, 2_000_000), (408, {}, 0),
    (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0), (503, {"Retry-After": "-5"}, 0),
    (503, {"Retry-After": "9" * 40}, 0),
])  # fmt: skip
def test_what_may_pass_is_tried_later(status: int, headers: dict[str, str], after: int) -> None:
    with web_server() as server:
        server.reply = lambda request: (status, headers, b"")
        with pytest.raises(TryLater) as caught:
            asyncio.run(Webhook(server.url(), allow_networks=HERE)(event()))
    assert caught.value.after_us == after


def test_a_slow_answer_a_large_one_and_none_fail() -> None:
    def dripping(request: Request) -> tuple[int, dict[str, str], bytes]:
        time.sleep(1.5)
        return 200, {}, b""

    with web_server() as server:
        server.reply = dripping
        began = time.monotonic()
        with pytest.raises(TryLater, match="within 300ms"):
            asyncio.run(Webhook(server.url(), timeout="300ms", allow_networks=HERE)(event()))
        assert time.monotonic() - began < 1.2
        server.reply = lambda request: (200, {}, b"x" * 100_000)
        with pytest.raises(GiveUp, match="larger than 65,536 bytes"):
            asyncio.run(Webhook(server.url(), allow_networks=HERE)(event()))
        url = server.url()
    with pytest.raises(TryLater, match="ConnectError"):
        asyncio.run(Webhook(url, allow_networks=HERE)(event()))


def test_a_large_event_is_not_sent() -> None:
    with web_server() as server:
        with pytest.raises(GiveUp, match="1,048,576 may be sent"):
            asyncio.run(Webhook(server.url(), allow_networks=HERE)(event(text="x" * (1 << 20))))
        assert server.connections == 0


def test_an_answer_is_returned_where_it_is_an_object() -> None:
    with web_server() as server:
        hook = Webhook(server.url(), allow_networks=HERE)
        server.reply = lambda request: (200, {"Content-Type": "application/json"}, b'{"score": 0.5}')
        assert asyncio.run(hook(event())) == {"score": 0.5}
        for body in (b"[1]", b"{", b""):
            server.reply = lambda request, body=body: (200, {"Content-Type": "application/json"}, body)
            assert asyncio.run(hook(event())) is None


def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    """The connection goes to an address, and the certificate must still be the name's."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", certificate, "-days", "2", "-subj", "/CN=hooks.test", "-addext", "subjectAltName=DNS:hooks.test"],
        check=True, capture_output=True,
    )  # fmt: skip

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with web_server(certificate=(certificate, key)) as server:
        trusted = {"authorities": str(certificate), "allow_networks": HERE, "resolver": here}
        asyncio.run(Webhook(f"https://hooks.test:{server.port}/", **trusted)(event()))  # type: ignore[arg-type]
        assert len(server.requests) == 1
        for url, settings in (
            (f"https://other.test:{server.port}/", trusted),
            (f"https://hooks.test:{server.port}/", {"allow_networks": HERE, "resolver": here}),
        ):
            with pytest.raises(TryLater, match="ConnectError"):
                asyncio.run(Webhook(url, **settings)(event()))  # type: ignore[arg-type]
        assert len(server.requests) == 1


def test_secrets_are_read_where_they_are_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_text("hush-hush\n")
    monkeypatch.setenv("HOOK_URL", "https://user-hush-hush.invalid/token-hush-hush?key=hush-hush")
    assert Secret(file=str(path)).reveal() == "hush-hush"
    hook = Webhook(Secret(env="HOOK_URL"), Secret(file=str(path)), headers={"authorization": "hush-hush"})
    plain = Webhook("https://example.invalid/hush-hush", Secret(file=str(path)))
    mail = Email("mail", sender="a@b.c", to=("d@e.f",), user="u", password=Secret(file=str(path)))
    for thing in (hook, plain, mail, Reaction(hook), Reactions("r", handlers={"t": plain})):
        assert "hush-hush" not in repr(thing)
    with pytest.raises((TryLater, GiveUp)) as caught:
        asyncio.run(plain(event()))
    assert "hush" not in str(caught.value)
    with pytest.raises(InputError, match="no secret in the environment variable 'NOT_THERE'"):
        Webhook("https://example.invalid", Secret(env="NOT_THERE")).check()
    with pytest.raises(InputError, match="cannot be read"):
        Secret(file=str(tmp_path / "none")).reveal()
    with pytest.raises(InputError, match="one place"):
        Secret()


def test_an_e_mail_arrives_once_with_a_message_id_of_the_event() -> None:
    with mail_server() as server:
        send = Email(
            "127.0.0.1", server.port, sender="alerts@example.com", to=("ops@example.com", "desk@example.com"),
            subject="{service}: {topic}\r\nBcc: everybody@example.com", tls="none",
        )  # fmt: skip
        for _ in range(2):
            asyncio.run(send(event(number=7, service="till\r\nBcc: everybody@example.com")))
    first, second = (email.message_from_string(mail.text, policy=email.policy.default) for mail in server.mails)
    assert first["Message-ID"] == second["Message-ID"]
    assert "Bcc" not in first and first["X-Event-Id"] == "a1b2"
    assert [len(mail.to) for mail in server.mails] == [2, 2]
    assert first["Subject"].startswith("till  Bcc: everybody@example.com: alerts")
    assert "number: 7" in first.get_content()


@pytest.mark.parametrize(("codes", "kind"), [([550], GiveUp), ([450], TryLater), ([250, 550], GiveUp)])
def test_a_mail_server_that_refuses_is_believed(codes: list[int], kind: type[Exception]) -> None:
    with mail_server() as server:
        server.codes = codes
        send = Email("127.0.0.1", server.port, sender="a@b.c", to=("d@e.f", "g@h.i")[: len(codes)], tls="none")
        with pytest.raises(kind):
            asyncio.run(send(event()))


def test_no_mail_server_and_one_without_tls_are_tried_later() -> None:
    with mail_server() as server:
        port = server.port
        with pytest.raises(TryLater):
            asyncio.run(Email("127.0.0.1", port, sender="a@b.c", to=("d@e.f",))(event()))
        assert server.mails == []
    with pytest.raises(TryLater):
        asyncio.run(Email("127.0.0.1", port, sender="a@b.c", to=("d@e.f",), tls="none")(event()))


def test_e_mail_settings_that_do_not_fit_are_refused() -> None:
    for settings in (
        {"to": "d@e.f"},
        {"to": ()},
        {"tls": "perhaps"},
        {"user": "u"},
        {"user": "u", "password": Secret(env="X"), "tls": "none"},
        {"sender": "a@b.c\nBcc: x@y.z"},
    ):
        with pytest.raises(InputError):
            Email("mail", **{"sender": "a@b.c", "to": ("d@e.f",), **settings})  # type: ignore[arg-type]


def test_json_lines_go_to_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    asyncio.run(JsonLines()(event()))
    (line,) = capfdbinary.readouterr().out.splitlines()
    assert orjson.loads(line)["row"] == {"number": 7, "service": "till"}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_command_gets_the_event_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "hush-hush")
    monkeypatch.setenv("WANTED", "yes")
    tell = python(
        "import json, os, sys; e = json.load(sys.stdin); "
        "print(json.dumps({'number': e['row']['number'], 'env': dict(os.environ), 'args': sys.argv[1:]}))"
    )
    told = asyncio.run(Command((*tell, "; rm -rf /", "$HOME"), environment=("WANTED",))(event()))
    assert told["number"] == 7
    assert told["args"] == ["; rm -rf /", "$HOME"]
    assert told["env"]["SP_ID"] == "a1b2" and told["env"]["WANTED"] == "yes"
    assert "HOOK_SECRET" not in told["env"]


def test_exit_codes_and_stderr_of_a_command_are_its_answer() -> None:
    with pytest.raises(TryLater, match=r"ended with code 3: out of paper"):
        asyncio.run(Command(python("import sys; sys.stderr.write('out of paper'); sys.exit(3)"))(event()))
    with pytest.raises(GiveUp, match="code 65"):
        asyncio.run(Command(python("raise SystemExit(65)"))(event()))
    with pytest.raises(TryLater, match="does not start"):
        asyncio.run(Command(("/no/such/program",))(event()))
    assert asyncio.run(Command(("true",))(event(text="x" * 1_000_000))) is None
    with pytest.raises(InputError):
        Command("rm -rf /")  # type: ignore[arg-type]


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(TryLater, match="longer than 2s"):
        asyncio.run(Command(python(code), timeout="2s")(event()))
    assert time.monotonic() - began < 10
    for pid in map(int, pids.read_text().split()):
        until = time.monotonic() + 5
        while time.monotonic() < until and _lives(pid):
            time.sleep(0.01)
        assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


async def fine(_: object) -> None: ...


def not_asynchronous(_: object) -> None: ...


@pytest.mark.parametrize("wrong", [
    lambda: Reactions("Pager", handlers={"t": fine}),
    lambda: Reactions("pager", handlers={}),
    lambda: Reactions("pager", handlers={"t": not_asynchronous}),  # type: ignore[dict-item]
    lambda: Reactions("pager", handlers={"pager.reactions.dlq": fine}),
    lambda: Reaction(fine, timeout="0s"),
    lambda: Reaction(fine, concurrency=0),
    lambda: Retry(attempts=0),
    lambda: Breaker(failures=0),
    lambda: Breaker(at_least=21),
    lambda: Breaker(wait="0s"),
])  # fmt: skip
def test_what_cannot_work_is_refused_where_it_is_written(wrong: object) -> None:
    with pytest.raises(DefinitionError) as caught:
        wrong()  # type: ignore[operator]
    assert caught.value.hint
