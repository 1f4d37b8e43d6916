"""Delivery to other systems: SMTP, webhooks, guarded HTTP, templates."""
