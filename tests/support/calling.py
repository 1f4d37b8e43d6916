"""A lifecycle workflow for tests that calls a service; without pytest, as the sandbox imports it for each run."""

from __future__ import annotations

from workflows.authoring import LifecycleWorkflow, Parameters, lifecycle


class Call(Parameters):
    """What to refund."""

    invoice_id: str = "in/1"


@lifecycle("caller", purpose=None)
class Caller(LifecycleWorkflow[Call]):
    """Asks the billing service for a refund."""

    async def journey(self, parameters: Call) -> None:
        began = self.now()
        answer = await self.http_step(
            "refund",
            "PUT",
            "/invoices/{invoice_id}/refund",
            base="billing_url",
            values={"invoice_id": parameters.invoice_id},
            query={"notify": "no"},
            body={"user_id": self.user_id},
            accept=[409],
        )
        self.variables["seconds"] = int((self.now() - began).total_seconds())
        self.complete(reason="skipped" if answer.skipped else f"answered_{answer.status}")
