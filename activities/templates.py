"""The texts of messages. ``$name`` is the customer's name."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template


class UnknownTemplate(Exception):
    """A workflow named a template that isn't there."""


@dataclass(frozen=True)
class MessageTemplate:
    """Subject and body of a message in plain text."""

    subject: str
    body: str

    def render(self, name: str) -> tuple[str, str]:
        """Subject and body for a customer. Line breaks in the name can't reach the headers."""
        values = {"name": " ".join(name.split())}
        return Template(self.subject).substitute(values), Template(self.body).substitute(values)


TEMPLATES = {
    "welcome": MessageTemplate(
        subject="Welcome, $name",
        body=(
            "Hello $name,\n\n"
            "welcome aboard: your account is ready. Have a look around, and reply to this message\n"
            "whenever something is unclear.\n"
        ),
    ),
    "onboarding_nudge": MessageTemplate(
        subject="$name, shall we help you get started?",
        body=(
            "Hello $name,\n\n"
            "your account is waiting for its first steps. Most people begin with a short tour;\n"
            "reply to this message and we show you around.\n"
        ),
    ),
}


def template(name: str) -> MessageTemplate:
    """The template of that name; raises :class:`UnknownTemplate`."""
    found = TEMPLATES.get(name)
    if found is None:
        raise UnknownTemplate(f"there is no message template '{name}'")
    return found
