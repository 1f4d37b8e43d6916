"""The cost of authentication and rate limit for a request."""

from __future__ import annotations

from benchmarks.http import connections
from benchmarks.measure import Figure, in_turns, spread
from benchmarks.stack import HIGH_LIMIT, Stack
from store import api_keys

_TARGET_MS = 2.0


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Measure the statement alone, and its share of a request."""
    count = 500 if quick else 3000
    return [await _statement(stack, count), await _over_http(stack, count)]


async def _statement(stack: Stack, count: int) -> Figure:
    bare = await stack.bare_connection()

    async def admit() -> None:
        async with stack.limiter.connection() as connection:
            admission = await api_keys.authenticate(connection, stack.key, default_quota=HIGH_LIMIT)
        assert admission is not None

    async def select() -> None:
        await bare.fetchval("SELECT 1")

    try:
        admitted, selected = await in_turns([admit, select], count)
    finally:
        await bare.close()
    ours, ceiling = spread(admitted), spread(selected)
    return Figure(
        name="auth",
        what="authenticate a key and count the request: the statement with its connection from the pool, p50",
        value=ours["p50_ms"],
        unit="ms",
        ceiling=ceiling["p50_ms"],
        ceiling_what="SELECT 1 on a bare connection, p50",
        target=f"≤ {_TARGET_MS:.0f} ms",
        reached=ours["p50_ms"] <= _TARGET_MS,
        details={"statement": ours, "select_1": ceiling},
    )


async def _over_http(stack: Stack, count: int) -> Figure:
    """A 403 of the guard, which ends before the route, against a public 200."""
    async with connections(stack.url, stack.weak_key, 2) as [guarded, public]:

        async def refused() -> None:
            # A refusal on a route with personal data would also write to the audit log.
            response = await guarded.request("GET", "/keys")
            assert response.status == 403

        async def live() -> None:
            await public.get("/health/live")

        refusals, lives = await in_turns([refused, live], count)
    guarded_ms, public_ms = spread(refusals), spread(lives)
    added = guarded_ms["p50_ms"] - public_ms["p50_ms"]
    return Figure(
        name="auth over HTTP",
        what="a request that the guard rejects for its role, minus GET /health/live, p50",
        value=round(added, 3),
        unit="ms",
        ceiling=public_ms["p50_ms"],
        ceiling_what="GET /health/live, p50",
        target=f"≤ {_TARGET_MS:.0f} ms",
        reached=added <= _TARGET_MS,
        details={
            "refused": guarded_ms,
            "live": public_ms,
            "added_p99_ms": round(guarded_ms["p99_ms"] - public_ms["p99_ms"], 3),
        },
    )
