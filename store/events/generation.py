"""The generation of the log: raised where transaction ids have begun anew.

Consumers read the log in the order of (generation, transaction id, sequence). A logical dump that is restored
into another cluster brings the rows and their old transaction ids along, while the new cluster counts from
its own, which may be lower: new events would come before what consumers have read. So with every migration,
which comes before anything serves, the present transaction id is compared with the highest that the log has
seen, and where it is lower a new generation begins.
"""

from __future__ import annotations

from store.connection import Connection


async def settle(connection: Connection) -> int:
    """Begin a new generation if this cluster's transaction ids are behind the log's; gives the present one.

    To be called in a transaction, as the owner or the runtime role, while nothing ingests: what an ingest
    that had read the old generation then commits would be missed.
    """
    await connection.execute("SELECT FROM log_generation FOR UPDATE")
    generation: int = await connection.fetchval(
        """
        WITH highest AS (
            SELECT greatest(
                g.highest_xid,
                (SELECT max(c.xid) FROM log_cursors c WHERE c.generation = g.generation),
                (SELECT max(newest.xid)
                   FROM generate_series(0, (SELECT max(shard) FROM events)) AS shards (shard),
                        LATERAL (SELECT e.xid FROM events e
                                  WHERE e.shard = shards.shard AND e.generation = g.generation
                                  ORDER BY e.xid DESC LIMIT 1) AS newest)) AS xid
            FROM log_generation g)
        UPDATE log_generation
        SET generation = generation + (pg_current_xact_id() < highest.xid)::integer,
            highest_xid = CASE WHEN pg_current_xact_id() < highest.xid THEN pg_current_xact_id()
                          ELSE greatest(highest.xid, pg_current_xact_id()) END
        FROM highest RETURNING generation
        """
    )
    return generation
