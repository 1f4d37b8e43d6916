"""ETag, If-None-Match, If-Match."""

from __future__ import annotations

import pytest

from api.responses import if_match_holds, if_none_match_hits
from tests.support.builders import user
from tests.support.http import Clients, assert_problem


async def test_an_unchanged_profile_is_304(api: Clients) -> None:
    tag = (await api.admin.post("/users", json=user())).headers["etag"]
    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await api.admin.get("/users/u-1", headers={"If-None-Match": header})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == tag
        assert answer.headers["x-request-id"]
    await api.admin.patch("/users/u-1", json={"name": "New"})
    answer = await api.admin.get("/users/u-1", headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


async def test_masked_and_unmasked_views_have_different_tags(api: Clients) -> None:
    full = (await api.admin.post("/users", json=user())).headers["etag"]
    masked = (await api.analyst.get("/users/u-1")).headers["etag"]
    assert masked != full
    assert (await api.analyst.get("/users/u-1", headers={"If-None-Match": full})).status_code == 200
    assert (await api.operator.get("/users/u-1", headers={"If-None-Match": masked})).status_code == 304


async def test_a_change_of_the_present_version_is_applied(api: Clients) -> None:
    tag = (await api.admin.post("/users", json=user())).headers["etag"]
    for form in ("{tag}", '"old", {tag}', "*"):
        answer = await api.admin.patch(
            "/users/u-1", json={"name": f"New {tag}"}, headers={"If-Match": form.format(tag=tag)}
        )
        assert answer.status_code == 200
        tag = answer.headers["etag"]


@pytest.mark.parametrize("header", ['"old"', "W/{tag}", "nonsense", "{tag}x", ""])
async def test_a_change_of_another_version_is_412(api: Clients, header: str) -> None:
    tag = (await api.admin.post("/users", json=user())).headers["etag"]
    answer = await api.admin.patch(
        "/users/u-1", json={"name": "New"}, headers={"If-Match": header.format(tag=tag)}
    )
    assert_problem(answer, 412, "precondition_failed")
    assert (await api.admin.get("/users/u-1")).headers["etag"] == tag


async def test_an_integrators_tag_from_a_write_is_valid_for_the_next_write(api: Clients) -> None:
    tag = (await api.integrator.post("/users", json=user())).headers["etag"]
    answer = await api.integrator.patch("/users/u-1", json={"name": "New"}, headers={"If-Match": tag})
    assert answer.status_code == 200
    refused = await api.integrator.patch("/users/u-1", json={"name": "Newer"}, headers={"If-Match": tag})
    assert_problem(refused, 412, "precondition_failed")


async def test_an_unknown_user_is_404_even_with_if_match(api: Clients) -> None:
    answer = await api.admin.patch("/users/u-1", json={"name": "New"}, headers={"If-Match": '"x"'})
    assert_problem(answer, 404, "user_not_found")


def test_lists_of_tags_are_parsed_as_in_the_rfc() -> None:
    assert if_match_holds(None, {'"a"'})
    assert if_match_holds('"x" ,"a"', {'"a"'})
    assert if_match_holds('"a,b"', {'"a,b"'})
    assert not if_match_holds('W/"a"', {'"a"'})
    assert not if_match_holds('"a" "b"', {'"a"'})
    assert not if_none_match_hits(None, '"a"')
    assert if_none_match_hits('W/"a"', '"a"')
    assert not if_none_match_hits("a", '"a"')
