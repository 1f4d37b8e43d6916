"""What a withdrawn consent ends: the person's instances that rest on it, in the withdrawal's own transaction.

No instance outlives a withdrawal, and none that races it does:

- An execute, and a trigger, share the person's bucket (:mod:`store.consents.consents.locks`) and read the consent in their
  next statement. They commit their row before the withdrawal gets the bucket alone, and it is seen here; or they
  come after its commit, and see that there is no consent any more. A replay does the same.
- A row that is seen here may not have reached Temporal yet. Whoever delivers the cancellation and finds no run
  ends the row itself, which fences the run that comes (ADR 0008), and looks for that run a while longer.
"""

from __future__ import annotations

from collections.abc import Collection

from store.connection import Connection

CONSENT_WITHDRAWN = "consent_withdrawn"
"""The reason that an instance shows."""


async def end_instances(connection: Connection, withdrawals: Collection[tuple[str, str]]) -> None:
    """End what rests on consents that (user, purpose) have just been withdrawn: Temporal is told by the outbox.

    To be called with each person's bucket held alone (:func:`store.consents.consents.locks.exclude`).
    """
    if not withdrawals:
        return
    await connection.execute(
        """
        WITH ended AS (
            UPDATE instances i SET reason = $3
            FROM unnest($1::text[], $2::text[]) AS w (user_id, purpose)
            WHERE i.user_id = w.user_id AND i.purpose = w.purpose AND i.end_time IS NULL
            RETURNING i.*
        )
        INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                     event_timestamp)
        SELECT 'cancel', workflow_id, instance_id, NULL, user_id, instance_id, $3, now() FROM ended
        """,
        [user_id for user_id, _ in withdrawals],
        [purpose for _, purpose in withdrawals],
        CONSENT_WITHDRAWN,
    )
