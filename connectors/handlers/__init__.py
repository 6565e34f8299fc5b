"""Handlers that ship: webhooks, e-mail, JSON lines on stdout, and commands; frozen values to give to `Reactions`.

They reach what a person configured and nothing else, keep secrets out of every message, and raise `GiveUp` where
another attempt cannot help.
"""

from connectors.handlers.command import Command
from connectors.handlers.email import Email
from connectors.handlers.json_lines import JsonLines
from connectors.handlers.secret import Secret
from connectors.handlers.webhook import Webhook

__all__ = ["Command", "Email", "JsonLines", "Secret", "Webhook"]
