"""Message templates; ``$name`` is the customer's name. A workflow may define its own templates."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from delivery.mail import one_line


@dataclass(frozen=True)
class MessageTemplate:
    """Subject and body in plain text."""

    subject: str
    body: str

    def render(self, name: str) -> tuple[str, str]:
        values = {"name": one_line(name).strip()}
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
    "order_thanks": MessageTemplate(
        subject="Thank you, $name",
        body=(
            "Hello $name,\n\n"
            "thank you for your order. If anything about it isn't right, reply to this message: a person\n"
            "reads it.\n"
        ),
    ),
    "order_help": MessageTemplate(
        subject="$name, is everything as it should be?",
        body=(
            "Hello $name,\n\n"
            "your order should be with you by now. If something is missing, broken or unclear, reply to this\n"
            "message and we put it right.\n"
        ),
    ),
    "review_request": MessageTemplate(
        subject="$name, how did it go?",
        body=(
            "Hello $name,\n\n"
            "you have had some days with what you bought. One sentence on what you like, and one on what you\n"
            "don't, would help us and others. Just reply to this message.\n"
        ),
    ),
    "cart_reminder": MessageTemplate(
        subject="$name, your cart is waiting",
        body=("Hello $name,\n\nyou have left something in your cart. It is still there, just as you left it.\n"),
    ),
    "cart_help": MessageTemplate(
        subject="$name, can we help with your cart?",
        body=(
            "Hello $name,\n\n"
            "most carts are left over a question: size, delivery, payment. Reply to this message and we\n"
            "answer it.\n"
        ),
    ),
    "cart_last_call": MessageTemplate(
        subject="$name, we clear your cart soon",
        body=(
            "Hello $name,\n\n"
            "this is the last time we mention it: your cart is kept for a few more days, and is cleared then.\n"
        ),
    ),
    "we_miss_you": MessageTemplate(
        subject="$name, all well?",
        body=(
            "Hello $name,\n\n"
            "we haven't seen you for a while. Here is where you left off, and it takes a minute to go on.\n"
        ),
    ),
    "what_is_missing": MessageTemplate(
        subject="$name, what is missing?",
        body=(
            "Hello $name,\n\n"
            "what keeps you away: is something too difficult, too dear, or just not there? Reply with one line;\n"
            "we read every answer.\n"
        ),
    ),
    "whats_new": MessageTemplate(
        subject="$name, what is new",
        body=(
            "Hello $name,\n\n"
            "a lot has changed since your last visit. The three things that people like best are worth a look.\n"
        ),
    ),
    "comeback_offer": MessageTemplate(
        subject="$name, something to come back for",
        body=(
            "Hello $name,\n\n"
            "we would like to have you back, and have put something aside for you. Reply to this message to\n"
            "hear what it is.\n"
        ),
    ),
    "goodbye": MessageTemplate(
        subject="Goodbye, $name?",
        body=(
            "Hello $name,\n\n"
            "this is our last message, unless you tell us otherwise: one word in reply is enough, and we stay\n"
            "in touch. If not, all the best, and thank you for the time with us.\n"
        ),
    ),
    "trial_first_steps": MessageTemplate(
        subject="$name, the first step of your trial",
        body=(
            "Hello $name,\n\n"
            "your trial is running. The first step takes five minutes; reply to this message if it doesn't.\n"
        ),
    ),
    "trial_more": MessageTemplate(
        subject="$name, there is more in your trial",
        body=(
            "Hello $name,\n\n"
            "you have found your way in. Here is what others use next, once they have come as far as you have.\n"
        ),
    ),
    "trial_help": MessageTemplate(
        subject="$name, shall we set it up together?",
        body=(
            "Hello $name,\n\n"
            "half of your trial is over and it isn't in use yet. Reply with a time that suits you and we set it\n"
            "up together.\n"
        ),
    ),
    "trial_ends_soon": MessageTemplate(
        subject="$name, your trial ends soon",
        body=(
            "Hello $name,\n\n"
            "your trial ends in a few days. What you have made stays yours if you subscribe; nothing is charged\n"
            "if you don't.\n"
        ),
    ),
    "trial_last_call": MessageTemplate(
        subject="$name, your trial ends tomorrow",
        body=(
            "Hello $name,\n\n"
            "tomorrow your trial ends. If you want to go on, now is the time; if you need longer, tell us.\n"
        ),
    ),
    "trial_extension": MessageTemplate(
        subject="$name, a little longer?",
        body=(
            "Hello $name,\n\n"
            "your trial has ended. If you had too little time to decide, reply to this message and we extend\n"
            "it.\n"
        ),
    ),
}
